"""A series of patches, a row each: whether it builds, what its memmap is like, and its figure."""

from __future__ import annotations

from dataclasses import dataclass

from vmtests.record import MemmapEntry, PatchEntry, Record, RecordWriter
from vmtests.report import words
from vmtests.report.cells import cells

_OUTCOMES = {"builds": "yes", "does-not-build": "no", "does-not-apply": "does not apply"}


@dataclass(frozen=True)
class PatchRow:
    """One patch, in words.

    Attributes:
        place: such as "3/8".
        tone: "good", "bad" where something is wrong, "unsure" where something could not be seen.
        figure: of the rebinds with this patch and all before it, and its unit; "-" if there is none.
        change: against the base.
        reason: why it does not build, in a line.
    """

    place: str
    kernel: str
    subject: str
    builds: str
    memmap: str
    figure: str
    change: str
    tone: str
    reason: str


def unit(record: Record | RecordWriter) -> str:
    """Return the unit of the figures."""
    return next((cell.unit for cell in cells(record)), "figure")


def rows(record: Record | RecordWriter) -> list[PatchRow]:
    """Return the patches of the record's series in their order; nothing if it is not about one."""
    timed = cells(record)
    found = []
    for patch in sorted(record.entries(PatchEntry), key=lambda one: one.number):
        checks = [check for check in record.entries(MemmapEntry) if check.kernel == patch.kernel]
        wrong = sum(check.mismatches for check in checks)
        blind = any(check.pages_checked != check.pages_expected for check in checks)
        figures = [cell.middle(patch.kernel, "rebind") for cell in timed]
        judged = [one for cell in timed for one in cell.found("rebind", patch.kernel)]
        tone = "unsure" if blind or not checks else "good"
        found.append(
            PatchRow(
                place=f"{patch.number}/{patch.total}",
                kernel=patch.kernel,
                subject=patch.subject,
                builds=_OUTCOMES[patch.outcome],
                memmap=_memmap(len(checks), wrong, blind=blind),
                figure=", ".join(f"{value:.2f}" for value in figures if value is not None) or "-",
                change=", ".join(f"{words.change(one.ratio)} {words.verdict(one)}" for one in judged) or "-",
                tone="bad" if patch.outcome != "builds" or wrong else tone,
                reason=patch.reason,
            )
        )
    return found


def _memmap(checks: int, wrong: int, *, blind: bool) -> str:
    if not checks:
        return "-"
    if wrong:
        return f"{wrong:,} wrong"
    return "not all seen" if blind else f"right in {words.count(checks, 'check')}"
