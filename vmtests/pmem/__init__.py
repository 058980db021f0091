"""Persistent memory: the backing file, the NVDIMM and its hot-plug, namespaces, and their drivers."""

from vmtests.pmem.backing import BackingFile
from vmtests.pmem.driver import Driver, bind, bind_at_once, unbind
from vmtests.pmem.namespace import KINDS, Namespace, NamespaceSpec, create_namespace, destroy_namespace, find_namespace
from vmtests.pmem.nvdimm import Nvdimm, Region, plug, unplug
from vmtests.pmem.prepared import Prepared

__all__ = [
    "KINDS",
    "BackingFile",
    "Driver",
    "Namespace",
    "NamespaceSpec",
    "Nvdimm",
    "Prepared",
    "Region",
    "bind",
    "bind_at_once",
    "create_namespace",
    "destroy_namespace",
    "find_namespace",
    "plug",
    "unbind",
    "unplug",
]
