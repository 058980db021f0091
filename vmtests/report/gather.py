"""Reading the records that a report is about, and refusing those that do not belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests import record
from vmtests.errors import UsageError
from vmtests.record import BindEntry, KernelEntry, Record
from vmtests.timing.compare import Comparison, compare


@dataclass(frozen=True)
class Gathered:
    """The records in the order they were named. `between` holds those of one clock against the first of that clock."""

    records: tuple[Record, ...]
    between: tuple[tuple[Record, Record, Comparison], ...]


def gather(paths: Sequence[Path]) -> Gathered:
    """Read records and see that one page can be about all of them.

    Raises:
        UsageError: records are missing, damaged or of a newer schema (all of them are named), or cannot be compared.
    """
    records: list[Record] = []
    wrong: list[str] = []
    for path in paths:
        try:
            records.append(record.read(path))
        except UsageError as error:
            wrong.append(str(error))
    if wrong:
        raise UsageError("\n".join([*wrong, *(["nothing was written"] if len(paths) > 1 else [])]))
    folders = [one.folder.resolve() for one in records]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UsageError(f"{folder} is named twice: name each record once")
    return Gathered(tuple(records), tuple(_between(records)))


def _between(records: Sequence[Record]) -> list[tuple[Record, Record, Comparison]]:
    found = []
    firsts: dict[str, Record] = {}
    for one in records:
        clock = next((bind.clock for bind in one.entries(BindEntry)), None)
        if clock is None:
            continue
        if clock in firsts:
            found.append((firsts[clock], one, compare(firsts[clock], one)))
        else:
            _same_kernels(next(iter(firsts.values()), one), one)
            firsts[clock] = one
    return found


def _same_kernels(first: Record, other: Record) -> None:
    """See that two records by different clocks are of the same kernels: they stand beside each other on one page."""
    here, there = ({kernel.name: kernel for kernel in one.entries(KernelEntry)} for one in (first, other))
    for name in [name for name in here if name in there]:
        if _identity(here[name]) != _identity(there[name]):
            raise UsageError(
                f"kernel {name} is not the same in {first.folder} and {other.folder}: "
                f"{_describe(here[name])}; {_describe(there[name])}. Report on each by itself"
            )
    if here and there and not here.keys() & there.keys():
        raise UsageError(
            f"no kernel is in both records: {first.folder} has {' '.join(here)}, {other.folder} has {' '.join(there)}"
        )


def _identity(kernel: KernelEntry) -> tuple[str, str, tuple[str, ...]]:
    return kernel.source, kernel.config_sha256, tuple(patch["sha256"] for patch in kernel.patches)


def _describe(kernel: KernelEntry) -> str:
    return f"{kernel.source}, patches: {len(kernel.patches)}, config {kernel.config_sha256[:12]}"
