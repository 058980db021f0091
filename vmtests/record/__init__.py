"""The run record: one folder a run, with `run.json` and the evidence beside it; what comes later reads only this."""

from vmtests.record.entries import (
    BindEntry,
    ComparisonEntry,
    DifferenceEntry,
    Entry,
    EvidenceEntry,
    FlipEntry,
    GuestEntry,
    HostEntry,
    KernelEntry,
    MemmapEntry,
    NamespaceEntry,
    PatchEntry,
)
from vmtests.record.record import SCHEMA, Record, RecordWriter, read

__all__ = [
    "SCHEMA",
    "BindEntry",
    "ComparisonEntry",
    "DifferenceEntry",
    "Entry",
    "EvidenceEntry",
    "FlipEntry",
    "GuestEntry",
    "HostEntry",
    "KernelEntry",
    "MemmapEntry",
    "NamespaceEntry",
    "PatchEntry",
    "Record",
    "RecordWriter",
    "read",
]
