"""How much of what a run set out to do is in its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmtests.errors import ExitCode
from vmtests.record import GuestEntry, MemmapEntry, Record
from vmtests.report.cells import cells

_ENDED = {
    ExitCode.USAGE: "the run was not begun: wrong usage",
    ExitCode.HOST_FAILED: "this host could not finish the run",
    ExitCode.BUG: "a bug of vmtests, or of the tests, ended a part of the run",
    ExitCode.INTERRUPTED: "the run was ended by Ctrl-C",
    ExitCode.TERMINATED: "the run was ended by SIGTERM",
}


@dataclass(frozen=True)
class Completeness:
    """Counts of what is there out of what there should be; `lacks` says what is missing, in words."""

    binds: int
    binds_expected: int
    boots: int
    dropped_pairs: int
    checks: int
    checks_incomplete: int
    warnings: int
    lacks: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Nothing that was begun is missing."""
        return not self.lacks

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "lacks": list(self.lacks), "complete": self.complete}


def completeness(record: Record) -> Completeness:
    """Count what a record holds. Each boot is held against the fullest one of its cell."""
    lacks = []
    code = record.document["exit_code"]
    if code in _ENDED:
        lacks.append(f"{_ENDED[ExitCode(code)]} (exit code {code})")
    binds = wanted = 0
    dropped = 0
    for cell in cells(record):
        samples = {(boot.kernel, boot.number): len(boot.rebinds) + bool(boot.first) for boot in cell.boots}
        numbers = {boot.number for boot in cell.boots}
        fullest = max(samples.values())
        here, there = sum(samples.values()), fullest * len(numbers) * len(cell.kernels)
        if here < there:
            lacks.append(f"{cell.namespace.id}: {there - here} of {there} binds are missing")
        pairs = max((one.dropped_pairs for one in cell.comparisons), default=0)
        if pairs:
            lacks.append(f"{cell.namespace.id}: {pairs} pairs of boots were dropped")
        lacks += list(cell.notes)
        binds, wanted, dropped = binds + here, wanted + there, dropped + pairs
    lacks += record.rig_trouble
    checks = record.entries(MemmapEntry)
    blind = sum(check.pages_checked != check.pages_expected for check in checks)
    if blind:
        lacks.append(f"{blind} of {len(checks)} memmap checks could not see every struct page")
    return Completeness(
        binds=binds,
        binds_expected=wanted,
        boots=len(record.entries(GuestEntry)),
        dropped_pairs=dropped,
        checks=len(checks),
        checks_incomplete=blind,
        warnings=len(record.document["dmesg_warnings"]),
        lacks=tuple(lacks),
    )
