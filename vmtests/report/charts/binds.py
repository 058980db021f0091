"""Every bind of a cell: in the order it ran, and how far each one is from its boot's median."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from statistics import median

from vmtests.record import BindEntry
from vmtests.report.cells import Boot, Cell
from vmtests.report.charts.style import SOFT, WIDE, Canvas, Chart, beside, canvas, canvases, look, render

#: Up to so many boots have their names under the axis; more have the boot's number under each pair.
_NAMED_BOOTS = 12


#: First binds that take so many times what rebinds do get an axis of their own, or nothing else could be told apart.
_APART = 2.5


def in_order(cell: Cell, *, tips: bool = True) -> Chart:
    """Draw all binds in the order they ran: drift, outliers, boots that differ; with `tips` each says its figure."""
    firsts = [cell.value(boot.first) for boot in cell.boots if boot.first]
    rebinds = [cell.value(bind) for boot in cell.boots for bind in boot.rebinds]
    said = f"{sum(len(boot.binds) for boot in cell.boots)} binds of {len(cell.boots)} boots in the order they ran: "
    said += "; ".join(_said(cell, kernel) for kernel in cell.kernels)
    apart = bool(firsts and rebinds) and max(firsts) > _APART * median(rebinds)
    drawing = canvases(WIDE, 370, (2, 5)) if apart else _twice(canvas(WIDE, 300))
    with drawing as (above, below):
        for slot, boot in enumerate(cell.boots):
            _boot(above, below, cell, slot, boot, tips=tips)
        _name_boots(below, cell.boots)
        for drawn, what in ((above, f"first, {cell.unit}"), (below, f"rebinds, {cell.unit}" if apart else cell.unit)):
            drawn.axes.set_ylabel(what)
            drawn.axes.set_ylim(0, drawn.axes.get_ylim()[1] * 1.04)
            drawn.axes.grid(True, axis="y")
            margin = 0.06 * len(cell.boots) + 0.1
            drawn.axes.set_xlim(-min(margin, 0.5), len(cell.boots) - 0.2 + min(margin, 0.5))
        poisoned = any(bind.poisoned for boot in cell.boots for bind in boot.binds)
        return Chart(
            title="Every bind, in the order it ran",
            caption="Filled: rebinds. Ring: the first bind of a boot. Bar: the median of a boot's rebinds."
            + (" Cross: a bind over a memmap that the host had overwritten, which is no sample." if poisoned else "")
            + (" First binds have an axis of their own." if apart else "")
            + f" {'Both axes begin' if apart else 'The axis begins'} at 0.",
            said=said,
            svg=render(below, said),
            wide=True,
        )


@contextmanager
def _twice(drawing: AbstractContextManager[Canvas]) -> Iterator[tuple[Canvas, Canvas]]:
    with drawing as drawn:
        yield drawn, drawn


def _said(cell: Cell, kernel: str) -> str:
    values = [cell.value(bind) for boot in cell.of(kernel) for bind in boot.rebinds]
    if not values:
        return f"{kernel} has no rebind"
    return f"rebinds of {kernel} from {min(values):.4g} to {max(values):.4g} {cell.unit}, median {median(values):.4g}"


def _boot(above: Canvas, below: Canvas, cell: Cell, slot: int, boot: Boot, *, tips: bool) -> None:
    style = look(cell.kernels, boot.kernel)
    step = 0.8 / max(len(boot.binds) - 1, 1)
    places = {id(bind): slot + step * place for place, bind in enumerate(boot.binds)}
    small = 5.0 if len(cell.boots) <= _NAMED_BOOTS else 3.2

    def dots(drawn: Canvas, binds: Sequence[BindEntry], marker: str, size: float, filled: bool, colour: str) -> None:
        if not binds:
            return
        gid = drawn.gid()
        drawn.axes.plot(
            [places[id(bind)] for bind in binds],
            [cell.value(bind) for bind in binds],
            marker,
            markersize=size,
            markerfacecolor=colour if filled else "white",
            markeredgecolor=colour,
            markeredgewidth=0 if filled else 1.4,
            gid=gid,
        )
        if tips:
            drawn.tips[gid] = [f"{_name(boot, bind)}: {cell.value(bind):.6g} {cell.unit}" for bind in binds]

    dots(below, boot.rebinds, style.marker, small, True, style.colour)
    dots(above, [boot.first] if boot.first else [], style.marker, small + 2.5, False, style.colour)
    dots(below, [bind for bind in boot.binds if bind.poisoned], "x", small + 1, False, SOFT)
    if boot.rebinds:
        middle = median(cell.value(bind) for bind in boot.rebinds)
        below.axes.plot([slot - 0.04, slot + 0.84], [middle, middle], "-", color="black", linewidth=1.6)


def _name(boot: Boot, bind: BindEntry) -> str:
    return f"{boot.kernel}, boot {boot.number}, bind {bind.index}{' over poison' if bind.poisoned else ''}"


def _name_boots(drawn: Canvas, boots: Sequence[Boot]) -> None:
    axes = drawn.axes
    axes.tick_params(axis="x", length=0)
    if len(boots) <= _NAMED_BOOTS:
        axes.set_xticks(
            [slot + 0.4 for slot in range(len(boots))],
            [f"{_cut(boot.kernel, 100 // len(boots))}\nboot {boot.number}" for boot in boots],
        )
        return
    ticks, labels, slot = [], [], 0
    for number, group in itertools.groupby(boots, key=lambda boot: boot.number):
        count = len([*group])
        if slot:
            axes.axvline(slot - 0.1, color=SOFT, linewidth=0.5, alpha=0.5)
        ticks.append(slot + count / 2 - 0.1)
        labels.append(str(number))
        slot += count
    axes.set_xticks(ticks, labels)
    axes.set_xlabel("boot: those of one number ran back to back")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(most - 1, 1)]}…"


def departures(cell: Cell, *, tips: bool = True) -> Chart:
    """Draw how far each bind's count is from the median of its boot's rebinds, in parts per million."""
    with canvas(beside(cell), 260) as drawn:
        axes = drawn.axes
        axes.axhline(0, color=SOFT, linewidth=0.8)
        widest: dict[str, float] = {}
        for boot in cell.boots:
            if not boot.rebinds:
                continue
            style = look(cell.kernels, boot.kernel)
            middle = median(cell.value(bind) for bind in boot.rebinds)
            binds = [bind for bind in boot.binds if not bind.poisoned]
            values = [(cell.value(bind) / middle - 1) * 1e6 for bind in binds]
            widest[boot.kernel] = max([widest.get(boot.kernel, 0.0), *(abs(value) for value in values)])
            for ring in (False, True):
                chosen = [place for place, bind in enumerate(binds) if (bind.index == 0) is ring]
                gid = drawn.gid()
                axes.plot(
                    [binds[place].index for place in chosen],
                    [values[place] for place in chosen],
                    style.marker,
                    markersize=7 if ring else 4.5,
                    markerfacecolor="white" if ring else style.colour,
                    markeredgecolor=style.colour,
                    markeredgewidth=1.4 if ring else 0,
                    alpha=0.8,
                    gid=gid,
                )
                if tips:
                    drawn.tips[gid] = [
                        f"{_name(boot, binds[place])}: {cell.value(binds[place]):.4f} {cell.unit}" for place in chosen
                    ]
        axes.set_xlabel("bind of a boot (0: the first)")
        axes.set_ylabel("ppm from the boot's median")
        axes.margins(y=0.12)
        axes.grid(True, axis="y")
        said = "Each bind's count against the median of its boot: " + ", ".join(
            f"{kernel} within {value:.0f} parts per million" for kernel, value in widest.items()
        )
        return Chart(
            title="Instructions of each bind",
            caption="How far each bind is from the median of its boot's rebinds, in parts per million. "
            "A change counts from 1,000 parts per million (0.1 %).",
            said=said,
            svg=render(drawn, said),
            wide=beside(cell) == WIDE,
        )
