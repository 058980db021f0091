"""Shares: of the binds that were done by a time, and of what a write to sysfs takes."""

from __future__ import annotations

from statistics import median

import numpy as np

from vmtests.report.cells import Cell
from vmtests.report.charts.style import INK, WIDE, Chart, beside, canvas, look, render


def done(cell: Cell) -> Chart:
    """Draw the share of rebinds that were done by a time, for each kernel: spread and tails, without bins."""
    with canvas(beside(cell), 300) as drawn:
        axes = drawn.axes
        said = []
        for kernel in cell.kernels:
            values = np.sort([cell.value(bind) for boot in cell.of(kernel) for bind in boot.rebinds])
            if not len(values):
                continue
            style = look(cell.kernels, kernel)
            shares = np.arange(1, len(values) + 1) / len(values)
            axes.step(values, shares, where="post", color=style.colour, linestyle=style.dashes)
            axes.plot(
                values[-1:], shares[-1:], style.marker, color=style.colour, markersize=7, label=kernel, clip_on=False
            )
            said.append(f"half of the rebinds of {kernel} were done by {np.median(values):.4g} {cell.unit}")
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "all"])
        axes.set_xlabel(f"{cell.unit} (the axis does not begin at 0)")
        axes.set_ylabel("share of rebinds")
        axes.grid(True)
        axes.legend(loc="lower right")
        return Chart(
            title="Share of rebinds done by a time",
            caption="All rebinds of all boots. The further left, the faster; the flatter, the more spread out.",
            said="; ".join(said),
            svg=render(drawn, "; ".join(said)),
            wide=beside(cell) == WIDE,
        )


def writes(cell: Cell) -> Chart | None:
    """Draw what the writes to bind and unbind take, and how much of it the function does; None if none were timed."""
    scale, unit = (1e6, "million instructions") if cell.clock == "icount" else (1e6, "ms")
    rows = []
    for kernel in cell.kernels:
        timed = [bind for boot in cell.of(kernel) for bind in boot.rebinds if bind.bind_write_ns is not None]
        if timed:
            whole = median(bind.bind_write_ns or 0 for bind in timed) / scale
            inside = median(bind.duration_ns for bind in timed) / scale
            unbinds = [bind.unbind_write_ns for bind in timed if bind.unbind_write_ns is not None]
            rows.append((kernel, inside, max(whole - inside, 0.0), median(unbinds) / scale if unbinds else None))
    if not rows:
        return None
    with canvas(WIDE, 72 + 42 * len(rows)) as drawn:
        axes = drawn.axes
        longest = max(inside + rest + (unbind or 0) for _, inside, rest, unbind in rows)
        ticks, said = {}, []
        for place, (kernel, inside, rest, unbind) in enumerate(rows):
            style = look(cell.kernels, kernel)
            axes.barh(place, inside, 0.5, color=style.colour, alpha=0.75, hatch=style.hatch, edgecolor="white")
            axes.barh(place, rest, 0.5, left=inside, color="#bdbdbd", edgecolor=INK, linewidth=0.6)
            text = f"{inside:.4g} of {inside + rest:.4g}"
            if unbind is not None:
                axes.barh(place, unbind, 0.5, left=inside + rest, color="white", edgecolor=INK, linewidth=0.6)
                text += f", unbind {unbind:.3g}"
            axes.text(inside + rest + (unbind or 0) + longest * 0.01, place, text, va="center", fontsize=11)
            ticks[place] = kernel
            said.append(
                f"{kernel}: the function takes {inside:.4g} of the {inside + rest:.4g} {unit} of a bind's write"
                + ("" if unbind is None else f", the unbind's write {unbind:.3g}")
            )
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_ylim(len(ticks) - 0.4, -0.6)
        axes.set_xlim(0, longest * 1.22)
        axes.set_xlabel(f"{unit}, median of rebinds")
        return Chart(
            title="What a rebind's writes to sysfs take",
            caption="Coloured: memmap_init_zone_device(). Grey: the rest of the bind's write. "
            "White: the unbind's write."
            + (
                " The writes are by the guest's clock, which runs with the instructions and skips what it waits for."
                if cell.clock == "icount"
                else ""
            ),
            said="; ".join(said),
            svg=render(drawn, "; ".join(said)),
            wide=True,
        )
