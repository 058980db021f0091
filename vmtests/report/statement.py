"""What a record says, as paragraphs and tables: only what was measured, each figure with its clock.

`plain` lays it out for a patch's changelog or cover letter, as the kernel's lists have it; `markdown` for an issue.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmtests.record import ComparisonEntry, DifferenceEntry, FlipEntry, GuestEntry, KernelEntry, MemmapEntry, Record
from vmtests.report import headline, series, table, words
from vmtests.report.cells import Cell, cells
from vmtests.report.completeness import completeness

#: What the kernel's lists want a changelog to be at most.
COLUMNS = 72

_CLOCKS = {
    "icount": "Instructions were counted by QEMU (-icount); the count is not a time: it does not see caches, stores "
    "that bypass them and first-touch faults.",
    "wall": "Times are those of the guest's monotonic clock around the function.",
}


@dataclass(frozen=True)
class Table:
    """Rows of cells; all columns but the first hold figures, and a last one without a heading holds words."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = str | Table


def blocks(record: Record) -> Iterator[Block]:
    """Yield the paragraphs and tables of one record."""
    timed = cells(record)
    for cell in timed:
        yield _measured(record, cell)
        yield _table(cell)
        if cell.clock == "icount" and record.rig_trouble:
            yield from record.rig_trouble
        elif said := " ".join(_verdict(one) for one in cell.found("rebind")):
            yield said
    yield from _series(record)
    yield from _memmap(record)
    if lacks := completeness(record).lacks:
        yield f"Not complete: {'; '.join(lacks)}."
    if record.document["dmesg_warnings"]:
        yield f"The kernels printed {words.count(len(record.document['dmesg_warnings']), 'warning')}."
    yield from _kernels(record)


def _measured(record: Record, cell: Cell) -> str:
    space, host = cell.namespace, record.host
    guest = "a guest"
    if host is not None:
        guest = f"a QEMU {host.qemu_version} guest ({host.accelerator.upper()}, CPU model {host.cpu_model})"
    align = f", align={words.size(space.align_bytes).replace(' ', '')}" if space.mode == "devdax" else ""
    rebinds = max(len(boot.rebinds) for boot in cell.boots)
    boots = max(len(cell.of(kernel)) for kernel in cell.kernels)
    each = f"in each of {boots} boots" if boots > 1 else "in one boot"
    text = (
        f"memmap_init_zone_device() was measured in {guest}, with a {words.size(space.size_bytes)} {space.mode} "
        f"namespace, map={space.map}{align}, of {cell.pages} struct pages. Its driver was bound once and rebound "
        f"{words.count(rebinds, 'time')} {each} of each kernel. {_CLOCKS[cell.clock]}"
    )
    if cell.emulated(record):
        text += " Under emulation (TCG) they are not comparable with hardware."
    return text


def _table(cell: Cell) -> Table:
    rows: list[tuple[str, ...]] = []
    for kernel in cell.kernels:
        firsts, rebinds = (cell.middle(kernel, metric) for metric in ("first", "rebind"))
        rows.append((kernel, _figure(firsts), _figure(rebinds), ""))
        found = {one.metric: one for one in cell.comparisons if one.patched == kernel}
        if found:
            judged = found.get("rebind") or next(iter(found.values()))
            changes = (words.change(found[name].ratio) if name in found else "-" for name in ("first", "rebind"))
            rows.append((f"  against {judged.base}", *changes, words.verdict(judged)))
            rows += _interval(found)
    return Table((cell.unit, "first bind", "rebinds", ""), tuple(rows))


def _series(record: Record) -> Iterator[Block]:
    patches = series.rows(record)
    if not patches:
        return
    rows = tuple(
        (f"{row.place} {row.subject}", row.figure, row.memmap if row.builds == "yes" else f"builds: {row.builds}")
        for row in patches
    )
    yield "Each patch was tested on those before it; the last column is what its struct pages are like."
    yield Table(("patch", series.unit(record), ""), rows)


def _interval(found: dict[str, ComparisonEntry]) -> Iterator[tuple[str, ...]]:
    if not any(one.ci_low is not None for one in found.values()):
        return
    confidences = {one.confidence for one in found.values() if one.confidence is not None}
    named = f"{confidences.pop() * 100:.4g} % " if len(confidences) == 1 else ""
    for what, side in (("from", "ci_low"), ("to", "ci_high")):
        ends = [getattr(found[name], side) if name in found else None for name in ("first", "rebind")]
        shown = ("-" if end is None else words.change(end) for end in ends)
        yield (f"    {named}interval {what}", *shown, "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _verdict(one: ComparisonEntry) -> str:
    seen = f" The run {words.sees(one)}." if one.smallest_visible is not None else ""
    return f"{headline.sentence(one)}{seen}"


def _memmap(record: Record) -> Iterator[str]:
    checks = record.entries(MemmapEntry)
    if not checks:
        yield "No struct page was looked at."
    good = [check for check in checks if not check.mismatches and check.pages_checked == check.pages_expected]
    if good:
        pages = sum(check.pages_checked for check in good)
        poisoned = sum(check.poisoned for check in good)
        over = f"{poisoned} of them after a bind over an overwritten memmap, " if poisoned else ""
        yield (
            "Every byte of every struct page was compared with what it must hold, in "
            f"{words.count(len(good), 'check')}, {over}{pages} struct pages in all: nothing is wrong."
        )
    for check in checks:
        where = f"{check.kernel}, {check.namespace}, bind {check.bind_index}"
        where += " (over an overwritten memmap)" if check.poisoned else ""
        if check.pages_checked != check.pages_expected:
            yield f"{where}: only {check.pages_checked} of {check.pages_expected} struct pages could be seen."
        if check.mismatches:
            fields = ", ".join(f"{one['field']} {one['count']}" for one in check.wrong_fields)
            text = f"{where}: {check.mismatches} wrong" + (f" ({fields})" if fields else "")
            if check.examples:
                one = check.examples[0]
                pfn = f"{one['pfn']:#x}" if isinstance(one["pfn"], int) else str(one["pfn"])
                text += f"; the first: pfn {pfn}, {one['field']} is {one['got']}, must be {one['wanted']}"
            yield f"{text}."
    yield from (f"{line}." for line in proofs(record))
    for two in record.entries(DifferenceEntry):
        said = "are the same" if not two.mismatches else f"differ in {two.mismatches}"
        yield f"{two.pages_compared} struct pages of {two.base} and {two.patched}, {two.namespace}, {said}."


def proofs(record: Record) -> list[str]:
    """Return what is known of the checks themselves: the flipped bits that they found, and what they could not see."""
    found = [table.flips(record.entries(FlipEntry)), table.not_checked(record.entries(MemmapEntry))]
    return [line for text in found for line in text.splitlines()]


def _kernels(record: Record) -> Iterator[str]:
    ran = {guest.kernel for guest in record.entries(GuestEntry)}
    kernels = [kernel for kernel in record.entries(KernelEntry) if kernel.name in ran]
    for kernel in kernels:
        yield _built(kernel, kernels[0])


def _built(kernel: KernelEntry, first: KernelEntry) -> str:
    names = [patch["name"] for patch in kernel.patches]
    built = {(one.release, one.source, one.compiler, one.config_sha256) for one in (kernel, first)}
    if kernel is not first and len(built) == 1 and kernel.patches[: len(first.patches)] == first.patches:
        added = names[len(first.patches) :]
        return f"{kernel.name} is {first.name} with {', '.join(added)}." if added else f"{kernel.name} is {first.name}."
    config = f"config sha256 {kernel.config_sha256[:16]}"
    return f"{kernel.name} is {', '.join([kernel.release, kernel.source, *names, kernel.compiler, config])}."


def plain(records: Sequence[Record]) -> str:
    """Return the text for a changelog or cover letter: no line is longer than 72 columns."""
    parts = []
    for record in records:
        for block in blocks(record):
            parts.append(_plain_table(block) if isinstance(block, Table) else _wrap(block))
    return "\n\n".join(parts) + "\n"


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        words.printable(text), COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _plain_table(table: Table) -> str:
    rows = [[words.printable(cell) for cell in row] for row in (table.header, *table.rows)]
    others = [max(len(row[column]) for row in rows) for column in range(1, len(table.header))]
    # Whatever a kernel is called, the figures stay inside the columns.
    room = COLUMNS - 2 - sum(width + 2 for width in others)
    first = min(max(len(row[0]) for row in rows), room)
    lines = []
    for row in rows:
        name = row[0] if len(row[0]) <= first else f"{row[0][: first - 3]}..."
        figures = [cell.rjust(width) for cell, width in zip(row[1:-1], others, strict=False)]
        lines.append("  ".join(["", name.ljust(first), *figures, row[-1]]).rstrip())
    return "\n".join(lines)


def markdown(records: Sequence[Record]) -> str:
    """Return the same as markdown."""
    parts = []
    for record in records:
        for block in blocks(record):
            parts.append(markdown_table(block) if isinstance(block, Table) else escaped(block))
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table as markdown has it."""
    rows = [
        "| " + " | ".join(escaped(cell.strip()).replace("\n", " ") for cell in row) + " |"
        for row in (table.header, *table.rows)
    ]
    rule = "| --- |" + " ---: |" * (len(table.header) - 2) + " --- |"
    return "\n".join([rows[0], rule, *rows[1:]])


def escaped(text: str) -> str:
    """Return text that markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~&$" else letter for letter in words.printable(text))
