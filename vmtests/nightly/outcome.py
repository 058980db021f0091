"""What became of a cell, by its run record and the exit code of its run. Pure: what this says is what the gate counts.

An `Outcome` is final when running the cell again would tell nothing new: it passed, or its kernel is at fault. All
else is the host's or our own fault: it is retried, shown, and never called a failure of the kernel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmtests import record
from vmtests.errors import ExitCode, UsageError
from vmtests.record import BindEntry, KernelEntry, MemmapEntry, Record

#: Stands in a cell's command for the folder of its record, which only the host that runs it knows.
RECORD = "{record}"

#: The file of an outcome beside the record; it is sent last, so what it stands beside is whole.
NAME = "cell.json"

#: How long a cell that the deadline ends may take to put its guests away, in seconds.
END_SECONDS = 60.0

PASSED = "passed"
KERNEL_FAILED = "kernel-failed"
DOES_NOT_BUILD = "does-not-build"
NO_VERDICT = "no-verdict"
HOST_FAILED = "host-failed"
BUG = "bug"
#: Nobody has said what became of it: its runner was killed, or never began.
LOST = "lost"

_CODES = {
    PASSED: ExitCode.PASSED,
    KERNEL_FAILED: ExitCode.KERNEL_FAILED,
    DOES_NOT_BUILD: ExitCode.KERNEL_FAILED,
    NO_VERDICT: ExitCode.NO_VERDICT,
    HOST_FAILED: ExitCode.HOST_FAILED,
    BUG: ExitCode.BUG,
    LOST: ExitCode.HOST_FAILED,
}


@dataclass(frozen=True)
class Ignored:
    """Lines of dmesg that fail no cell, by a regular expression, and why."""

    line: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt at a cell.

    Attributes:
        cell: its name.
        verdict: one of the words above.
        kind: what sort of failure it is, for alerts: "memmap", "dmesg", "build", "kernel" or "".
        reasons: in words, the first one first.
        seconds: of the run of its tests.
    """

    cell: str
    verdict: str
    kind: str = ""
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def final(self) -> bool:
        """Whether there is no use in running the cell again."""
        return self.verdict in (PASSED, KERNEL_FAILED, DOES_NOT_BUILD, NO_VERDICT)

    @property
    def exit_code(self) -> ExitCode:
        """What it does to the exit code of the night."""
        return _CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "reasons": list(self.reasons)}


def read(folder: Path) -> Outcome | None:
    """Return the outcome in a folder, None if there is none that is whole."""
    try:
        value = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return Outcome(**{**value, "reasons": tuple(value["reasons"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def judge(
    cell: str, kernel: str, folder: Path, status: int | None, ignored: Sequence[Ignored], seconds: float
) -> Outcome:
    """Return the outcome of a run.

    Args:
        cell: its name.
        kernel: that of its tree.
        folder: of its record.
        status: the exit status of its run; None if the deadline ended it.
        ignored: the lines of dmesg that are expected.
        seconds: how long the run took.
    """
    if status is None:
        return Outcome(cell, HOST_FAILED, "", ("the night's deadline ended it",), seconds)
    try:
        found = record.read(folder)
    except UsageError as error:
        return Outcome(cell, HOST_FAILED, "", (f"exit status {status} and no record: {error.message}",), seconds)
    verdict, kind, reasons = _judge(found, kernel, status, ignored)
    return Outcome(cell, verdict, kind, tuple(reasons), seconds)


def _judge(found: Record, kernel: str, status: int, ignored: Sequence[Ignored]) -> tuple[str, str, list[str]]:
    said = str(found.document["verdict"])
    failures = _failures(found.folder)
    wrong = [
        f"{check.kernel} bind {check.bind_index}: {check.mismatches:,} fields of struct pages wrong"
        + "".join(f"; {field['field']} at pfn {field['first_pfn']:#x}" for field in check.wrong_fields[:3])
        for check in found.entries(MemmapEntry)
        if check.mismatches
    ]
    warned = [line for line in found.dmesg_warnings if not any(re.search(one.line, line) for one in ignored)]
    if set(found.unbuildable) == {kernel}:  # where the reference does not build either, the host is to blame
        return DOES_NOT_BUILD, "build", [found.unbuildable[kernel]]
    if found.document["exit_code"] != status:
        return HOST_FAILED, "", [f"exit status {status}, and {found.document['exit_code']} in its record", *failures]
    if said in (HOST_FAILED, BUG):
        return said, "", failures or [f"exit status {status}"]
    if said == KERNEL_FAILED:
        return (KERNEL_FAILED, "memmap", wrong) if wrong else (KERNEL_FAILED, "kernel", failures)
    if warned:
        return KERNEL_FAILED, "dmesg", warned
    if said == NO_VERDICT or status != ExitCode.PASSED:
        return NO_VERDICT, "", failures or [f"exit status {status}"]
    lacks = _lacks(found)
    return (HOST_FAILED, "", lacks) if lacks else (PASSED, "", [])


def _lacks(found: Record) -> list[str]:
    """Return what is missing in the record of a run that has passed: its kernels have as many binds, and checks."""
    lacks = list(found.rig_trouble)
    kernels = [kernel.name for kernel in found.entries(KernelEntry)]
    checks = found.entries(MemmapEntry)
    for what, entries in (("binds", found.entries(BindEntry)), ("memmap checks", checks)):
        counts = {name: sum(entry.kernel == name for entry in entries) for name in kernels}
        if len(kernels) < 2 or len(set(counts.values())) != 1 or not all(counts.values()):
            lacks.append(f"the kernels have not as many {what}: {counts}")
    blind = sum(check.pages_checked != check.pages_expected for check in checks)
    return lacks + ([f"{blind} memmap checks did not see every struct page"] if blind else [])


def _failures(folder: Path) -> list[str]:
    """Return the first lines of what failed, as the run has kept them."""
    try:
        text = (folder / "failures.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [" ".join(part.strip().splitlines()[:2]) for part in text.split("\n\n") if "::" in part.partition("\n")[0]]
