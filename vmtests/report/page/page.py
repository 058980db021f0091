"""From records to the page's template: which tables, which pictures, in which order."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
from markupsafe import Markup

from vmtests import __version__
from vmtests.record import (
    BindEntry,
    ComparisonEntry,
    DifferenceEntry,
    EvidenceEntry,
    GuestEntry,
    KernelEntry,
    MemmapEntry,
    Record,
)
from vmtests.report import charts, headline, provenance, series, words
from vmtests.report.cards import cards
from vmtests.report.cells import Cell, cells
from vmtests.report.charts import Chart
from vmtests.report.completeness import completeness
from vmtests.report.gather import Gathered
from vmtests.report.past import Past, past
from vmtests.report.statement import proofs

#: So many binds are drawn and listed one by one, and so many failed checks: a page stays below a megabyte.
BINDS = 5000
PICTURES = 6
LAYOUTS = 8
#: More binds than that do not say what they are when they are pointed at.
TIPS = 1500


@dataclass(frozen=True)
class KernelRow:
    """The figures of one kernel in a cell; None where there is nothing."""

    kernel: str
    first: float | None
    rebinds: float | None
    binds: int
    boots: int
    pr_debug: float | None


@dataclass(frozen=True)
class CellView:
    """A cell, its table and its pictures."""

    cell: Cell
    clock: str
    rows: tuple[KernelRow, ...]
    charts: tuple[Chart, ...]


def render(found: Gathered, history: Path | None = None) -> str:
    """Return the page about these records, with the history of their figures if its folder is given.

    Raises:
        UsageError: the folder holds no history.
    """
    notes: list[str] = []
    before: list[Past] = []
    if history is not None:
        before, notes = past(history, found.records)
    records = found.records
    binds = sum(len(record.entries(BindEntry)) for record in records)
    return (
        _environment()
        .get_template("page.html")
        .render(
            version=__version__,
            title=headline.title(records),
            headline=headline.headline(records),
            cards=cards(records),
            records=[_record(record, listed=binds <= BINDS, tips=binds <= TIPS) for record in records],
            between=found.between,
            comparisons=_comparisons(records),
            history=[charts.history(one.series, one.earlier, one.run) for one in before],
            history_folder=history,
            notes=notes,
        )
    )


def _record(record: Record, *, listed: bool, tips: bool) -> dict[str, Any]:
    seen = cells(record)
    checks = record.entries(MemmapEntry)
    return {
        "record": record,
        "started": provenance.started(record),
        "complete": completeness(record),
        "cells": [_cell(record, cell, dots=listed, tips=tips) for cell in seen],
        "listed": listed,
        "patches": series.rows(record),
        "unit": series.unit(record),
        "checks": checks,
        "wrong": [
            (check, charts.wrong(check) if place < PICTURES else None)
            for place, check in enumerate(check for check in checks if check.mismatches)
        ],
        "layouts": list(_layouts(record)),
        "proofs": proofs(record),
        "differences": record.entries(DifferenceEntry),
        "kernels": record.entries(KernelEntry),
        "guests": record.entries(GuestEntry),
        "evidence": record.entries(EvidenceEntry),
        "excerpts": list(provenance.excerpts(record)),
        "configs": list(provenance.configs(record)),
        "samples": provenance.samples(record) if seen and listed else "",
        "again": provenance.again(record),
    }


def _cell(record: Record, cell: Cell, *, dots: bool, tips: bool) -> CellView:
    clock = words.clock(cell.clock, emulated=cell.emulated(record))
    return CellView(cell, clock, tuple(_rows(cell)), tuple(_charts(cell, dots=dots, tips=tips)))


def _rows(cell: Cell) -> Iterator[KernelRow]:
    for kernel in cell.kernels:
        rebinds = [bind for boot in cell.of(kernel) for bind in boot.rebinds]
        printed = [bind.pr_debug_ms for bind in rebinds if bind.pr_debug_ms is not None]
        yield KernelRow(
            kernel=kernel,
            first=cell.middle(kernel, "first"),
            rebinds=cell.middle(kernel, "rebind"),
            binds=len(rebinds),
            boots=len(cell.of(kernel)),
            pr_debug=median(printed) if printed else None,
        )


def _charts(cell: Cell, *, dots: bool, tips: bool) -> Iterator[Chart]:
    if dots:
        yield charts.in_order(cell, tips=tips)
    if (chart := charts.pairs(cell, cell.kernels[1]) if len(cell.kernels) == 2 else charts.steps(cell)) is not None:
        yield chart
    if cell.clock == "wall":
        yield charts.done(cell)
    elif dots:
        yield charts.departures(cell, tips=tips)
    if (chart := charts.writes(cell)) is not None:
        yield chart


def _layouts(record: Record) -> Iterator[Chart]:
    drawn: dict[tuple[str, int | None, int | None], Chart] = {}
    for check in record.entries(MemmapEntry):
        place = (check.namespace, check.start_pfn, check.end_pfn)
        if place not in drawn and len(drawn) < LAYOUTS and (chart := charts.layout(check)) is not None:
            drawn[place] = chart
    yield from drawn.values()


@dataclass(frozen=True)
class Interval:
    """A comparison in the table of all of them; where it is drawn is in percent of the column."""

    one: ComparisonEntry
    at: float
    low: float | None
    high: float | None
    zero: float


def _comparisons(records: Sequence[Record]) -> list[Interval]:
    """Return all comparisons of rebinds: the verdicts that need a look first, then the largest changes."""
    judged = [one for record in records for cell in cells(record) for one in cell.found("rebind")]
    ends = [0.0] + [side - 1 for one in judged for side in (one.ratio, one.ci_low, one.ci_high) if side is not None]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(ratio: float) -> float:
        return 4 + 92 * (ratio - 1 - low) / span

    order = ("slower", "no-verdict", "faster", "same")
    judged.sort(key=lambda one: (order.index(one.verdict), -abs(one.ratio - 1)))
    return [
        Interval(
            one,
            place(one.ratio),
            None if one.ci_low is None else place(one.ci_low),
            None if one.ci_high is None else place(one.ci_high),
            place(1.0),
        )
        for one in judged
    ]


def _finalize(value: object) -> object:
    """Show what could hide or turn round text as an escape: strings of a record may come from a guest."""
    return words.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "about": words.size_about,
        "change": lambda ratio: words.typeset(words.change(ratio)),
        "figure": lambda value: "-" if value is None else f"{value:.2f}",
        "interval": words.interval,
        "sees": words.sees,
        "size": words.size,
        "typeset": words.typeset,
        "verdict": words.verdict,
        "svg": Markup,
        "hex": lambda value: f"{value:#x}" if isinstance(value, int) else value,
    }
    environment.globals |= {
        "clock": words.clock,
        "count": words.count,
        "css": Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8")),
    }
    return environment
