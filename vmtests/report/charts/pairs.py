"""The change that each pair of boots saw, and what they say together: the chart that carries the verdict."""

from __future__ import annotations

from vmtests.record import ComparisonEntry
from vmtests.report import words
from vmtests.report.cells import Cell
from vmtests.report.charts.style import BAND, HALF, INK, SOFT, WIDE, Canvas, Chart, canvas, look, render
from vmtests.timing.effect import BAND as TIME_BAND
from vmtests.timing.verdict import COUNT_TOLERANCE

#: More pairs than that are drawn without a name each.
_NAMED = 12


def pairs(cell: Cell, patched: str) -> Chart | None:
    """Draw the change by pair of boots of one kernel; None when there was no whole pair."""
    found = {one.metric: one for one in cell.found("first", patched) + cell.found("rebind", patched)}
    if not found:
        return None
    rebinds, firsts = (
        {number: (ratio - 1) * 100 for number, ratio in cell.pairs(patched, metric).items()}
        for metric in ("rebind", "first")
    )
    numbers = sorted({*rebinds, *firsts})
    judged = [found[metric] for metric in ("rebind", "first") if metric in found]
    with canvas(HALF, min(140 + 26 * (len(numbers) + len(judged)), 420)) as drawn:
        axes = drawn.axes
        band = (COUNT_TOLERANCE if cell.clock == "icount" else TIME_BAND) * 100
        axes.axvspan(-band, band, color=BAND, linewidth=0)
        axes.axvline(0, color=SOFT, linewidth=1)
        style = look(cell.kernels, patched)
        places = {number: place for place, number in enumerate(numbers)}
        for values, filled in ((firsts, False), (rebinds, True)):
            if not values:
                continue
            gid = drawn.gid()
            axes.plot(
                list(values.values()),
                [places[number] for number in values],
                style.marker,
                markersize=6 if filled else 8.5,
                markerfacecolor=style.colour if filled else "white",
                markeredgecolor=style.colour,
                markeredgewidth=0 if filled else 1.4,
                gid=gid,
            )
            what = "rebinds" if filled else "first bind"
            drawn.tips[gid] = [f"boot {number}, {what}: {value:+.3f} %" for number, value in values.items()]
        ticks = {place: f"boot {number}" if len(numbers) <= _NAMED else str(number) for number, place in places.items()}
        for row, one in enumerate(judged, start=len(numbers)):
            _together(drawn, row, one)
            ticks[row] = "all, rebinds" if one.metric == "rebind" else "all, first bind"
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_ylim(len(ticks) - 0.1, -0.6)
        axes.set_xlabel(f"change of {cell.unit}, %")
        axes.margins(x=0.16)
        axes.grid(True, axis="x")
        for row, one in enumerate(judged, start=len(numbers)):
            _write(drawn, row, one)
        said = f"{patched} against {cell.kernels[0]}: " + "; ".join(map(_said, judged))
        return Chart(
            title=f"Change by pair of boots, {patched} against {cell.kernels[0]}",
            caption="Filled: rebinds. Ring: first binds. Diamond: all pairs together"
            + (", with the interval. " if any(one.ci_low is not None for one in judged) else ". ")
            + f"Grey: what is called the same, ±{band:g} %.",
            said=said,
            svg=render(drawn, said),
        )


def steps(cell: Cell) -> Chart | None:
    """Draw the change of each of several kernels, such as the patches of a series; None when none was compared."""
    judged = cell.found("rebind")
    if not judged:
        return None
    with canvas(WIDE, 92 + 34 * len(judged)) as drawn:
        axes = drawn.axes
        band = (COUNT_TOLERANCE if cell.clock == "icount" else TIME_BAND) * 100
        axes.axvspan(-band, band, color=BAND, linewidth=0)
        axes.axvline(0, color=SOFT, linewidth=1)
        for row, one in enumerate(judged):
            style = look(cell.kernels, one.patched)
            found = cell.pairs(one.patched, "rebind")
            gid = drawn.gid()
            axes.plot(
                [(ratio - 1) * 100 for ratio in found.values()],
                [row - 0.3] * len(found),
                style.marker,
                markersize=5,
                color=style.colour,
                markeredgewidth=0,
                gid=gid,
            )
            drawn.tips[gid] = [f"boot {number}: {(ratio - 1) * 100:+.3f} %" for number, ratio in found.items()]
            _together(drawn, row, one)
        axes.set_yticks(range(len(judged)), [one.patched for one in judged])
        axes.set_ylim(len(judged) - 0.5, -0.7)
        axes.set_xlabel(f"change of {cell.unit} against {cell.kernels[0]}, %")
        axes.margins(x=0.1)
        axes.grid(True, axis="x")
        for row, one in enumerate(judged):
            _write(drawn, row, one)
        said = "; ".join(f"{one.patched}: {_said(one)}" for one in judged)
        return Chart(
            title=f"Change by kernel, against {cell.kernels[0]}",
            caption="Rebinds. Small: each pair of boots. Diamond: all pairs together"
            + (", with the interval. " if any(one.ci_low is not None for one in judged) else ". ")
            + f"Grey: what is called the same, ±{band:g} %.",
            said=said,
            svg=render(drawn, said),
            wide=True,
        )


def _together(drawn: Canvas, row: int, one: ComparisonEntry) -> None:
    change = (one.ratio - 1) * 100
    if one.ci_low is not None and one.ci_high is not None:
        low, high = ((side - 1) * 100 for side in (one.ci_low, one.ci_high))
        drawn.axes.errorbar(
            [change], [row], xerr=[[change - low], [high - change]], color=INK, capsize=5, linewidth=1.8, fmt="none"
        )
    filled = one.metric == "rebind"
    drawn.axes.plot([change], [row], "D", markersize=9, markerfacecolor=INK if filled else "white", color=INK)


def _write(drawn: Canvas, row: int, one: ComparisonEntry) -> None:
    """Write the change beside its interval, on the side that has room; once all is drawn."""
    low, high = ((side - 1) * 100 for side in (one.ci_low or one.ratio, one.ci_high or one.ratio))
    left, right = drawn.axes.get_xlim()
    on_right = right - high > low - left
    drawn.axes.annotate(
        words.typeset(words.change(one.ratio)),
        (high if on_right else low, row),
        (10 if on_right else -10, 0),
        textcoords="offset points",
        ha="left" if on_right else "right",
        va="center",
        fontsize=11,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
    )


def _said(one: ComparisonEntry) -> str:
    text = f"{'rebinds' if one.metric == 'rebind' else 'first bind'} {words.change(one.ratio)}"
    if one.ci_low is not None and one.ci_high is not None:
        text += f", interval {words.change(one.ci_low)} to {words.change(one.ci_high)}"
    return f"{text}, {one.pairs} pairs, {words.verdict(one)}"
