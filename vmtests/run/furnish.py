"""A guest with an NVDIMM outside of any run, to be worked in by hand: `vmtests boot`."""

from __future__ import annotations

from collections.abc import Callable

from vmtests.guest import Guest, kept
from vmtests.memmap import Oracle
from vmtests.pmem import BackingFile, Namespace, NamespaceSpec, Nvdimm, Region, create_namespace, plug
from vmtests.run import unprobed
from vmtests.timing.rebind import Rebinder


def insert(guest: Guest, size_bytes: int, *, backing: BackingFile | None = None, node: int | None = None) -> Region:
    """Plug an NVDIMM of this size into the guest; a new backing file ends with the guest.

    Args:
        guest: where.
        size_bytes: what namespaces can have.
        backing: its content, which an earlier guest has left; a new file by default.
        node: its NUMA node, for a machine that has several.
    """
    if backing is None:
        path = guest.workspace.files / "nvdimm0"
        backing = guest.own(BackingFile.create(path, Nvdimm.backing_bytes(size_bytes)))
    return plug(guest, Nvdimm(id="nvdimm0", backing=backing.path, size_bytes=size_bytes, node=node))


def furnish(
    guest: Guest, size_bytes: int, spec: NamespaceSpec | None, doing: Callable[[str], None]
) -> Namespace | None:
    """Plug an NVDIMM and make a namespace of all of it, whose driver binds at once.

    What the probe saw of that bind stays with the guest, so that others can check its memmap. drgn's monitor and the
    probes are free again in the end.

    Args:
        guest: that others can look into.
        size_bytes: of the NVDIMM.
        spec: the kind of namespace; None makes none.
        doing: called with what is going on.
    """
    if spec is None:
        doing("hot-plug")
        insert(guest, size_bytes)
        return None
    with Oracle.attach(guest) as oracle:
        with unprobed.watching(guest, oracle) as probes:
            doing("hot-plug")
            region = insert(guest, size_bytes)
            doing(f"namespace {spec.id} and first bind")
            namespace = create_namespace(guest, region, spec)
            oracle.saw(namespace, Rebinder(guest, namespace, probes, boot=0, clock="wall").first().truth)
        kept.remember(guest.workspace.files, [known.to_json() for known in oracle.known])
    return namespace
