"""The end of a run in a terminal: two tables, the clock, and where the evidence is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests.errors import printable
from vmtests.record import (
    BindEntry,
    ComparisonEntry,
    DifferenceEntry,
    EvidenceEntry,
    FlipEntry,
    KernelEntry,
    MemmapEntry,
    Record,
    RecordWriter,
)
from vmtests.report import series, table, words

if TYPE_CHECKING:
    from vmtests.memmap import MemmapResult
    from vmtests.memmap.known import Known


def render(record: Record | RecordWriter, *, width: int, colour: bool) -> str:
    """Return the summary of a record as text."""
    binds, checks = record.entries(BindEntry), record.entries(MemmapEntry)
    differences = record.entries(DifferenceEntry)
    parts = []
    if binds:
        comparisons = record.entries(ComparisonEntry)
        kernels = [kernel.name for kernel in record.entries(KernelEntry)]
        parts.append(table.render(table.timing(binds, kernels), width=width, colour=colour))
        if comparisons:
            parts.append(table.render(table.verdicts(comparisons), width=width, colour=colour))
        parts += record.rig_trouble
        parts.append(f"clock: {words.clock(binds[0].clock, emulated=any(one.emulated for one in comparisons))}")
    if checks or differences:
        parts.append(table.render(table.memmaps(checks, differences), width=width, colour=colour))
    if patches := series.rows(record):
        parts.append(table.render(table.series(patches, series.unit(record)), width=width, colour=colour))
        said = dict.fromkeys(f"{row.place}: {words.printable(row.reason)}" for row in patches if row.reason)
        parts += ["\n".join(said)] if said else []
    parts += [text for text in (table.flips(record.entries(FlipEntry)), table.not_checked(checks)) if text]
    if record.dmesg_warnings:
        shown = [f"  {words.printable(line)}" for line in record.dmesg_warnings[:20]]
        parts.append("\n".join(["warnings of the kernels:", *shown]))
    return "\n\n".join(parts)


def checked(known: Known, result: MemmapResult) -> str:
    """Return the outcome of looking again at a memmap, and the first of what is wrong, a line each."""
    line = words.memmap(str(known), result.pages_checked, result.pages_expected, result.mismatches, result.seconds)
    return "\n".join([line, *(f"  {example}" for example in result.examples)])


def places(record: Record | RecordWriter) -> str:
    """Return where the record is, and the evidence of each test that failed: a folder for each of its guests."""
    lines = []
    entries = record.entries(EvidenceEntry)
    lines += [f"  {record.folder / entry.path}" for entry in entries if entry.kind == "failure"]
    folders: dict[tuple[str, Path], list[str]] = {}
    for entry in entries:
        if entry.test is not None:
            path = record.folder / entry.path
            folders.setdefault((entry.test, path.parent), []).append(path.name)
    for (test, folder), names in folders.items():
        lines.append(f"  {folder} ({', '.join(sorted(names))}) of {printable(test)}")
    return "\n".join([*(["evidence:", *lines] if lines else []), f"record: {record.folder / 'run.json'}"])


def kept(name: str, kernel: str, why: str, ways_in: Sequence[str]) -> str:
    """Return what to say of a guest that was left running: what it is, and the commands that lead into it."""
    return "\n".join([f"{name} runs on (kernel {kernel}; {printable(why)}):", *(f"  {way}" for way in ways_in)])
