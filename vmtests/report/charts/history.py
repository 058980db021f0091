"""One figure over many runs."""

from __future__ import annotations

from collections.abc import Sequence

from vmtests.report.charts.style import HALF, SOFT, Chart, canvas, render
from vmtests.timing.series import Series

#: More runs than that are not all dated under the axis.
_DATES = 6


def history(series: Series, earlier: Sequence[Series], run: str | None) -> Chart:
    """Draw a series of a history.

    Args:
        series: of this kernel.
        earlier: series of the same figure whose key was another: they are drawn before it, with a gap.
        run: the one that the page is about, if it is in the history.
    """
    with canvas(HALF, 280) as drawn:
        axes = drawn.axes
        at, dates = 0, []
        for one in sorted([*earlier, series], key=lambda one: one.points[0].started):
            current = one is series
            places = list(range(at, at + len(one.points)))
            values = [point.value for point in one.points]
            gid = drawn.gid()
            axes.plot(places, values, drawstyle="steps-mid", color="black" if current else SOFT, linewidth=1.2)
            axes.plot(places, values, "o", color="black" if current else SOFT, markersize=4.5, gid=gid)
            drawn.tips[gid] = [f"run {point.run}: {point.value:.5g} {one.unit}" for point in one.points]
            for change in one.changes():
                where = [point.run for point in one.points].index(change.after.run) + at
                axes.axvline(where - 0.5, color="#CC79A7", linestyle=(0, (4, 3)), linewidth=1.4)
                axes.annotate(
                    f"{change.size * 100:+.2f} %\n{change.after.run}{' (ended)' if change.fixed else ''}",
                    (where - 0.5, 0.98),
                    (-4, 0),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                    fontsize=11,
                    color="#9c3f78",
                )
            for place, point in zip(places, one.points, strict=True):
                dates.append((place, point.started[:10]))
                if current and point.run == run:
                    axes.plot([place], [point.value], "o", markersize=11, markerfacecolor="none", color="#0072B2")
                    axes.annotate("this run", (place, point.value), (0, -18), textcoords="offset points", ha="center")
            at += len(one.points) + 1
        step = max(1, -(-len(dates) // _DATES))
        axes.set_xticks([place for place, _ in dates[::step]], [date[5:] for _, date in dates[::step]])
        axes.set_xlabel(f"run, {dates[0][1]} to {dates[-1][1]}")
        axes.set_ylabel(series.unit)
        axes.margins(x=0.08, y=0.25)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(True, axis="y")
        last = series.points[-1]
        said = (
            f"{series.key['kernel']}, {series.key['namespace']}, {series.key['metric']}: {len(series.points)} runs, "
            f"{series.points[0].value:.5g} to {last.value:.5g} {series.unit}, {len(series.changes())} changes"
        )
        return Chart(
            title=f"{series.key['kernel']}, {series.key['namespace']}, "
            + ("rebinds" if series.key["metric"] == "rebind" else "first bind"),
            caption="Dashed: where it changed, by how much, and in which run."
            + (" Grey: runs with another kernel configuration, compiler, QEMU or machine." if earlier else "")
            + " The axis does not begin at 0.",
            said=said,
            svg=render(drawn, said),
        )
