"""The pictures of the report: matplotlib draws them, and they go into the page as SVG."""

from vmtests.report.charts.binds import departures, in_order
from vmtests.report.charts.history import history
from vmtests.report.charts.memmap import layout, wrong
from vmtests.report.charts.pairs import pairs, steps
from vmtests.report.charts.shares import done, writes
from vmtests.report.charts.style import WIDE, Chart

__all__ = ["WIDE", "Chart", "departures", "done", "history", "in_order", "layout", "pairs", "steps", "writes", "wrong"]
