"""Pictures of a namespace: what lies where in it, and where in its memmap fields are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vmtests.record import MemmapEntry
from vmtests.report import words
from vmtests.report.charts.style import INK, SOFT, WIDE, Chart, canvas, render

_PAGE = 4096
#: Pages of a section on x86-64 (SECTION_SIZE_BITS is 27).
_SECTION = 1 << 15
_INFO, _ALTMAP, _DATA = "#F0E442", "#56B4E9", "#f4f4f4"
#: More rows than that are in the table only.
ROWS = 12


def layout(check: MemmapEntry) -> Chart | None:
    """Draw what lies where in a namespace; None when the record does not say where the range is."""
    if check.start_pfn is None or check.first_pfn is None or check.end_pfn is None:
        return None
    pages, reserve = check.end_pfn - check.start_pfn, check.first_pfn - check.start_pfn
    sections = -(-check.end_pfn // _SECTION) - check.start_pfn // _SECTION
    with canvas(WIDE, 196) as drawn:
        axes = drawn.axes
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.axis("off")
        share = reserve / max(pages, 1)
        _box(axes, 0, 0.72, share, _ALTMAP, "////")
        _box(axes, share, 0.72, 1 - share, _DATA, "")
        axes.text(
            (share + 1) / 2,
            0.85,
            f"data: {pages - reserve:,} pages, {words.size_about((pages - reserve) * _PAGE)}",
            ha="center",
            va="center",
        )
        axes.text(0, 0.64, f"pfn {check.start_pfn:#x}", ha="left", va="top", fontsize=11)
        axes.text(1, 0.64, f"pfn {check.end_pfn:#x}", ha="right", va="top", fontsize=11)
        axes.text(
            0.5,
            0.64,
            f"to scale: {words.size(pages * _PAGE)} in {sections:,} sections of 128 MiB",
            ha="center",
            va="top",
            fontsize=11,
            color=SOFT,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
        )
        parts = _beginning(check, reserve)
        for edge, far in ((0.0, 0.0), (max(share, 0.002), 1.0)):
            axes.plot([edge, far], [0.72, 0.40], ":", color=SOFT, linewidth=1)
        left = 0.0
        for width, colour, hatch, text, place in parts:
            _box(axes, left, 0.14, width, colour, hatch)
            axes.text(
                left + width / 2,
                0.27,
                text,
                ha="center",
                va="center",
                fontsize=11,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85},
            )
            axes.text(left, 0.11, place, ha="left", va="top", fontsize=11)
            left += width
        said = f"{check.namespace}: " + "; ".join(f"{text} {place}".replace("\n", " ") for *_, text, place in parts)
        return Chart(
            title=f"Layout of {check.namespace}",
            caption="Above: the whole range, to scale. Below: its beginning, not to scale.",
            said=said,
            svg=render(drawn, said),
            wide=True,
        )


def _beginning(check: MemmapEntry, reserve: int) -> list[tuple[float, str, str, str, str]]:
    """Return width, colour, hatch, words and place of the parts before the data."""
    start, first = int(check.start_pfn or 0), int(check.first_pfn or 0)
    data = (0.30, _DATA, "", "data", f"pfn {first:#x}")
    if not reserve:
        inside = (0.30, _INFO, "xx", "info block, 8 KiB", f"pfn {start:#x}, initialised like the data")
        return [inside, (0.70, _DATA, "", "data; the memmap lies in RAM (map=mem)", "")]
    memmap, size = (check.end_pfn or 0) - start, check.bytes_per_page_checked
    return [
        (0.16, _INFO, "xx", "info block, 8 KiB", f"pfn {start:#x}"),
        (0.10, "white", "", "padding", f"pfn {start + 2:#x}"),
        (0.44, _ALTMAP, "////", f"altmap: {memmap:,} struct pages of {size} bytes", "+2 MiB"),
        data,
    ]


def _box(axes: Axes, left: float, bottom: float, width: float, colour: str, hatch: str) -> None:
    style: dict[str, Any] = {"facecolor": colour, "edgecolor": INK, "linewidth": 0.8, "hatch": hatch}
    axes.add_patch(Rectangle((left, bottom), width, 0.26, **style))


def wrong(check: MemmapEntry) -> Chart | None:
    """Draw where in the range fields are wrong; None when the record does not say so."""
    if check.start_pfn is None or check.first_pfn is None or check.end_pfn is None or not check.wrong_fields:
        return None
    fields = check.wrong_fields[:ROWS]
    pages = check.end_pfn - check.start_pfn
    with canvas(WIDE, 118 + 26 * len(fields)) as drawn:
        axes = drawn.axes
        reserve = check.first_pfn - check.start_pfn
        axes.add_patch(Rectangle((0, -1.45), reserve, 0.7, facecolor=_ALTMAP, hatch="////", edgecolor=INK, lw=0.8))
        axes.add_patch(Rectangle((reserve, -1.45), pages - reserve, 0.7, facecolor=_DATA, edgecolor=INK, lw=0.8))
        axes.text((reserve + pages) / 2, -1.1, "data", ha="center", va="center", fontsize=11)
        for row, one in enumerate(fields):
            _row(axes, row, one["parts"], pages)
            share = one["count"] / max(check.pages_expected, 1)
            text = f"{one['count']:,}" + (f" ({min(share, 1) * 100:.0f} %)" if share >= 0.01 else "")
            axes.text(pages * 1.008, row, text, va="center", fontsize=11)
            for example in check.examples:
                pfn = example["pfn"]
                if example["field"] == one["field"] and isinstance(pfn, int) and check.start_pfn <= pfn < check.end_pfn:
                    axes.plot([pfn - check.start_pfn], [row - 0.36], "v", color="black", markersize=5)
        axes.set_yticks([-1.1, *range(len(fields))], ["range", *(one["field"] for one in fields)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(fields) - 0.4, -1.6)
        axes.set_xlim(0, pages)
        gib = (1 << 30) // _PAGE
        step = 2 ** max(math.ceil(math.log2(pages / gib / 8)), -10) * gib
        ticks = [place * step for place in range(int(pages / step) + 1)]
        axes.set_xticks(ticks, [words.size_about(int(tick) * _PAGE) if tick else "0" for tick in ticks])
        axes.set_xlabel(f"place in the range; pfn {check.start_pfn:#x} is 0")
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        where = f"{check.kernel}, {check.namespace}, bind {check.bind_index}{' over poison' if check.poisoned else ''}"
        said = f"{where}: " + "; ".join(
            f"{one['field']} is wrong {one['count']:,} times, pfn {one['first_pfn']:#x} to {one['last_pfn']:#x}"
            for one in fields
        )
        hidden = len(check.wrong_fields) - len(fields)
        return Chart(
            title="Where in the range, and which field",
            caption="Each row is a field, each box a part of the range: the darker, the more of its struct pages are "
            "wrong; an empty place has none. Triangle: an example of the table. Right: how many in all."
            + (f" {hidden} more fields are in the table." if hidden else ""),
            said=said,
            svg=render(drawn, said),
            wide=True,
        )


def _row(axes: Axes, row: int, parts: Sequence[int], pages: int) -> None:
    width = pages / max(len(parts), 1)
    for place, count in enumerate(parts):
        if count:
            # One page in a hundred thousand must be seen as well as half of them.
            depth = 0.18 + 0.72 * max(0.0, 1 + math.log10(min(count / width, 1)) / 6)
            colour = (1 - 0.16 * depth, 1 - 0.63 * depth, 1 - 1.0 * depth)
            axes.add_patch(
                Rectangle((place * width, row - 0.3), width, 0.6, facecolor=colour, edgecolor="#7a2f00", linewidth=0.4)
            )
