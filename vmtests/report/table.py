"""The tables at the end of a run, for a terminal and for a log."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from vmtests.record import BindEntry, ComparisonEntry, DifferenceEntry, FlipEntry, MemmapEntry
from vmtests.report import words


def render(*tables: Table, width: int, colour: bool) -> str:
    """Return tables as text; with `colour` it holds terminal escapes."""
    sink = io.StringIO()
    console = Console(file=sink, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def timing(binds: Sequence[BindEntry], comparisons: Sequence[ComparisonEntry]) -> Table:
    """Return the table of the published series: first bind and rebinds of each kernel, the change and the verdict."""
    clock = binds[0].clock
    unit = "instructions/page" if clock == "icount" else "ms"
    table = Table(title=f"memmap_init_zone_device(), {unit}", title_justify="left", box=None, pad_edge=False)
    for heading, justify in (("namespace", "left"), ("kernel", "left"), ("first bind", "right"), ("rebinds", "right")):
        table.add_column(heading, justify="right" if justify == "right" else "left")
    table.add_column("of", justify="right")
    table.add_column("verdict")
    for namespace in dict.fromkeys(bind.namespace for bind in binds):
        for kernel in dict.fromkeys(bind.kernel for bind in binds if bind.namespace == namespace):
            mine = [b for b in binds if (b.namespace, b.kernel) == (namespace, kernel) and not b.poisoned]
            firsts, rebinds = [b for b in mine if b.index == 0], [b for b in mine if b.index]
            table.add_row(namespace, kernel, _median(firsts), _median(rebinds), str(len(rebinds)), "")
        for patched in dict.fromkeys(c.patched for c in comparisons if c.namespace == namespace):
            found = {c.metric: c for c in comparisons if (c.namespace, c.patched) == (namespace, patched)}
            table.add_row("", f"  {patched} against base", *_change_cells(found))
    return table


def _median(binds: Sequence[BindEntry]) -> str:
    if not binds:
        return "-"
    scale = [1 / bind.pages if bind.clock == "icount" else 1e-6 for bind in binds]
    return f"{np.median([bind.duration_ns * factor for bind, factor in zip(binds, scale, strict=True)]):.2f}"


def _change_cells(found: dict[str, ComparisonEntry]) -> tuple[str, str, str, str]:
    def cell(metric: str) -> str:
        return words.change(found[metric].ratio) if metric in found else "-"

    judged = found.get("rebind") or found.get("first")
    assert judged is not None
    text = words.verdict(judged)
    if judged.ci_low is not None and judged.ci_high is not None:
        text += f" [{words.change(judged.ci_low)}, {words.change(judged.ci_high)}]"
    if judged.smallest_visible is not None:
        text += f", sees {judged.smallest_visible * 100:.2g} %"
    return cell("first"), cell("rebind"), "", text


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
