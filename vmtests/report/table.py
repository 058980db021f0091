"""The tables at the end of a run, for a terminal and for a log."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from vmtests.record import BindEntry, ComparisonEntry, DifferenceEntry, FlipEntry, MemmapEntry
from vmtests.report import words
from vmtests.report.series import PatchRow


def render(*tables: Table, width: int, colour: bool) -> str:
    """Return tables as text; with `colour` it holds terminal escapes."""
    sink = io.StringIO()
    console = Console(file=sink, width=width, force_terminal=colour, no_color=not colour, highlight=False, markup=False)
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def timing(binds: Sequence[BindEntry], kernels: Sequence[str]) -> Table:
    """Return the table of the published series: first bind and rebinds of each kernel, and the writes around them.

    Args:
        binds: of the run.
        kernels: in the order to show them.
    """
    clock = binds[0].clock
    unit = "instructions/page" if clock == "icount" else "ms"
    table = Table(title=f"memmap_init_zone_device(), {unit}", title_justify="left", box=None, pad_edge=False)
    for heading in ("namespace", "kernel"):
        table.add_column(heading)
    # The kernel's own figure is in whole milliseconds of a clock that under icount is none.
    for heading in ("first bind", "rebinds", "of", "bind write", "unbind write", *(["pr_debug"] * (clock == "wall"))):
        table.add_column(heading, justify="right")
    for namespace in dict.fromkeys(bind.namespace for bind in binds):
        ran = {bind.kernel for bind in binds if bind.namespace == namespace}
        for kernel in (name for name in kernels if name in ran):
            mine = [b for b in binds if (b.namespace, b.kernel) == (namespace, kernel) and not b.poisoned]
            firsts, rebinds = [b for b in mine if b.index == 0], [b for b in mine if b.index]
            cells = [
                _median(firsts, [b.duration_ns for b in firsts]),
                _median(rebinds, [b.duration_ns for b in rebinds]),
                str(len(rebinds)),
                _median(rebinds, [b.bind_write_ns for b in rebinds]),
                _median(rebinds, [b.unbind_write_ns for b in rebinds]),
            ]
            if clock == "wall":
                said = [b.pr_debug_ms for b in rebinds]
                cells.append(_median(rebinds, [None if one is None else one * 10**6 for one in said]))
            table.add_row(namespace, kernel, *cells)
    return table


def _median(binds: Sequence[BindEntry], values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    if not binds or not known:
        return "-"
    return f"{np.median(known) * (1 / binds[0].pages if binds[0].clock == 'icount' else 1e-6):.2f}"


def verdicts(comparisons: Sequence[ComparisonEntry]) -> Table:
    """Return the table of what the patches did: the change, its interval, the word, and what could have been seen."""
    base = " or ".join(dict.fromkeys(one.base for one in comparisons))
    table = Table(title=f"verdict, against {base}", title_justify="left", box=None, pad_edge=False)
    for heading in ("namespace", "kernel", "metric", "change", "interval", "verdict", "smallest visible", "pairs"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "change" else "left")
    for one in comparisons:
        table.add_row(
            one.namespace,
            one.patched,
            "first bind" if one.metric == "first" else "rebinds",
            words.change(one.ratio),
            words.interval(one),
            words.verdict(one),
            words.smallest_visible(one),
            words.pairs(one),
        )
    return table


def memmaps(entries: Sequence[MemmapEntry], differences: Sequence[DifferenceEntry]) -> Table:
    """Return the table of memmap checks: pages seen out of pages expected, wrong ones, and the time it took."""
    table = Table(title="memmap, every byte of every struct page", title_justify="left", box=None, pad_edge=False)
    for heading in ("namespace", "kernel", "bind"):
        table.add_column(heading)
    for heading in ("pages checked", "of", "wrong", "seconds"):
        table.add_column(heading, justify="right")
    for one in entries:
        bind = f"{one.bind_index}{' poisoned' if one.poisoned else ''}"
        table.add_row(
            one.namespace,
            one.kernel if not one.boot else f"{one.kernel} boot {one.boot}",
            bind,
            f"{one.pages_checked:,}",
            f"{one.pages_expected:,}",
            f"{one.mismatches:,}",
            f"{one.seconds:.2f}",
        )
    for two in differences:
        table.add_row(
            two.namespace, f"{two.patched} - {two.base}", "same?", f"{two.pages_compared:,}", "", f"{two.mismatches:,}"
        )
    return table


def series(rows: Sequence[PatchRow], unit: str) -> Table:
    """Return the table of a series' patches.

    Args:
        rows: a patch each.
        unit: of their figures.
    """
    table = Table(title="the series, each patch on those before it", title_justify="left", box=None, pad_edge=False)
    for heading in ("patch", "kernel", "builds", "memmap"):
        table.add_column(heading, no_wrap=True)
    table.add_column(unit, justify="right", no_wrap=True)
    table.add_column("change", no_wrap=True)
    table.add_column("subject", overflow="fold")
    for row in rows:
        subject = words.printable(row.subject)
        table.add_row(row.place, row.kernel, row.builds, row.memmap, row.figure, row.change, subject)
    return table


def flips(entries: Sequence[FlipEntry]) -> str:
    """Return how many of the flipped bits the check found, a line each kernel."""
    lines = []
    for kernel in dict.fromkeys(one.kernel for one in entries):
        mine = [one for one in entries if one.kernel == kernel]
        found, flipped, invented = (sum(getattr(one, name) for one in mine) for name in ("found", "flips", "invented"))
        more = f", and reported {invented} that nobody flipped" if invented else ""
        kinds = len({one.namespace for one in mine})
        where = f"{kinds} kind{'s' if kinds > 1 else ''} of namespace"
        lines.append(f"{kernel}: the check found {found:,} of {flipped:,} flipped bits in {where}{more}")
    return "\n".join(lines)


def not_checked(entries: Sequence[MemmapEntry]) -> str:
    """Return what could not be checked, a line each kernel and thing."""
    said = dict.fromkeys((one.kernel, thing) for one in entries for thing in one.not_checked)
    return "\n".join(f"{kernel}: not checked: {thing}" for kernel, thing in said)


def listing(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Return rows of three columns as they are, without a heading."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
