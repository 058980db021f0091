"""How charts look: colours that all eyes can tell apart, a shape and a dash beside each colour, and SVG for a page."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from vmtests.report import words
from vmtests.report.cells import Cell

#: Widths in CSS pixels at full size: a chart over the whole page, and one of two beside each other.
WIDE = 1040
HALF = 508

INK = "#222222"
SOFT = "#6b6b6b"
GRID = "#dddddd"
BAND = "#e4e4e4"

#: Colour, marker, dashes and hatch of the kernels, the base first. The colours are those of Okabe and Ito.
_KERNELS = (
    ("#0072B2", "o", "-", ""),
    ("#D55E00", "s", (0, (5, 2)), "////"),
    ("#009E73", "^", (0, (1, 1.5)), "...."),
    ("#CC79A7", "D", (0, (5, 2, 1, 2)), "xxxx"),
    ("#000000", "v", (0, (8, 2)), "\\\\\\\\"),
    ("#56B4E9", "P", (0, (3, 1, 1, 1, 1, 1)), "++++"),
    ("#E69F00", "X", (0, (2, 3)), "oo"),
)

_RC: Any = {
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "figure.dpi": 72,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "vmtests",
    "text.color": INK,
    # A guest's strings are no formulas.
    "text.parse_math": False,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
}


def beside(cell: Cell) -> int:
    """Return the width of a chart that stands beside that of the pairs, which several kernels make a wide one."""
    return HALF if len(cell.kernels) <= 2 else WIDE


@dataclass(frozen=True)
class Look:
    """How one kernel is drawn everywhere."""

    colour: str
    marker: str
    dashes: Any
    hatch: str


def look(kernels: Sequence[str], name: str) -> Look:
    """Return how a kernel is drawn; beyond seven kernels looks are used again."""
    return Look(*_KERNELS[kernels.index(name) % len(_KERNELS)])


@dataclass(frozen=True)
class Chart:
    """A picture for the page: `svg` is safe markup, `said` is what it shows, in words."""

    title: str
    caption: str
    said: str
    svg: str
    wide: bool = False


@dataclass
class Canvas:
    """A figure that is being drawn. `tips` has the words for each marker of a group, by the group's gid."""

    axes: Axes
    tips: dict[str, Sequence[str]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def gid(self) -> str:
        """Return a name for a group of markers."""
        return f"tips-{next(self._numbers)}"


@contextmanager
def canvas(width: int, height: int) -> Iterator[Canvas]:
    """Yield axes of a new figure, in CSS pixels."""
    with mpl.rc_context(_RC):
        yield Canvas(_figure(width, height).subplots())


@contextmanager
def canvases(width: int, height: int, ratios: tuple[float, float]) -> Iterator[tuple[Canvas, Canvas]]:
    """Yield two canvases of one figure, one above the other, with the same x axis."""
    with mpl.rc_context(_RC):
        above, below = _figure(width, height).subplots(2, 1, sharex=True, height_ratios=ratios)
        first = Canvas(above)
        yield first, Canvas(below, first.tips, first._numbers)


def _figure(width: int, height: int) -> Figure:
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


_numbers = itertools.count()


def render(drawn: Canvas, said: str) -> str:
    """Return the figure as an SVG element that can stand in a page among others."""
    sink = io.StringIO()
    figure = drawn.axes.figure
    assert isinstance(figure, Figure)
    with warnings.catch_warnings():
        # The page's reader has other fonts than the one that measures here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    return clean(sink.getvalue(), f"c{next(_numbers)}-", said, drawn.tips)


_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
_NUMBER = re.compile(r"-?\d+\.\d+(?![\d%])")


def clean(text: str, prefix: str, said: str, tips: Mapping[str, Sequence[str]]) -> str:
    """Make a figure of matplotlib's fit for a page: no outside names, no repeated ids, few digits, words for a reader.

    Args:
        text: the SVG file.
        prefix: for the ids that are needed, which must be the page's only ones.
        said: what a reader who does not see the picture is told.
        tips: what markers say when they are pointed at, by the id of their group.
    """
    root = ElementTree.fromstring(words.printable(text))
    parents = {child: parent for parent in root.iter() for child in parent}
    for name in ("metadata", "style"):
        for one in [*root.iter(f"{_SVG}{name}")]:
            parents[one].remove(one)
    for group in root.iter(f"{_SVG}g"):
        _tip(group, tips.get(group.get("id", ""), ()))
        _share_style(group)
    values = [value for one in root.iter() for value in one.attrib.values()]
    needed = {found[1] or found[2] for value in values for found in _REFERENCE.finditer(value)}
    for one in root.iter():
        one.tag = one.tag.removeprefix(_SVG)
        one.attrib = dict(_attributes(one, prefix, needed))
        one.text = (one.text or "").strip() or None
        one.tail = None
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": words.printable(said),
        "stroke-linejoin": "round",
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _tip(group: ElementTree.Element, tips: Sequence[str]) -> None:
    if not tips:
        return
    marks = [*group.iter(f"{_SVG}use")]
    if len(marks) == len(tips):
        for mark, text in zip(marks, tips, strict=True):
            ElementTree.SubElement(mark, f"{_SVG}title").text = words.printable(text)


def _share_style(group: ElementTree.Element) -> None:
    """Write the style that all markers of a group have only once."""
    marks = group.findall(f"{_SVG}use")
    styles = {mark.get("style", "") for mark in marks}
    if len(marks) > 1 and len(styles) == 1 and not group.get("style"):
        for mark in marks:
            mark.attrib.pop("style", None)
        group.set("style", styles.pop())


def _attributes(one: ElementTree.Element, prefix: str, needed: set[str]) -> Iterator[tuple[str, str]]:
    for key, value in one.attrib.items():
        if key == "id":
            if value in needed:
                yield key, prefix + value
        elif key == _HREF:
            yield "href", f"#{prefix}{value[1:]}"
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        elif key == "style":
            value = re.sub(r"\s*font-family:[^;]*;?", "", value)
            yield key, re.sub(r"url\(#", f"url(#{prefix}", value).replace(": ", ":").replace("; ", ";")
        elif key == "clip-path":
            yield key, value.replace("url(#", f"url(#{prefix}")
        elif key == "d":
            yield key, _NUMBER.sub(_short, " ".join(value.split()))
        else:
            yield key, _NUMBER.sub(_short, value)


def _short(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")
