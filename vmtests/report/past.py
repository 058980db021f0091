"""The part of a history that a page shows: the series that its records belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import UsageError
from vmtests.record import Record
from vmtests.timing import history
from vmtests.timing.figures import figures
from vmtests.timing.series import Series

#: What makes two series of the same figure, whose keys need not be the same.
_FIGURE = ("kernel", "namespace", "metric", "clock")


@dataclass(frozen=True)
class Past:
    """A series, the earlier series of the same figure by other keys, and the run that the page is about, if known."""

    series: Series
    earlier: tuple[Series, ...]
    run: str | None


def past(folder: Path, records: Sequence[Record]) -> tuple[list[Past], list[str]]:
    """Return the series that the records' rebinds belong to, and what there is to say about the history.

    Raises:
        UsageError: there is no history in the folder.
    """
    shown = history.show(folder)
    known = {series.id: series for series in shown.series}
    found: dict[str, Past] = {}
    notes = list(shown.damaged)
    for record in records:
        try:
            mine, _ = figures(record)
        except UsageError as error:
            notes.append(str(error))
            continue
        run = history.run_name(record)
        for figure in mine:
            series = known.get(figure.series)
            if figure.key["metric"] != "rebind" or series is None or series.id in found:
                continue
            alike = [one for one in shown.series if one is not series and _same_figure(one, series)]
            there = run if any(point.run == run for point in series.points) else None
            found[series.id] = Past(series, tuple(alike), there)
    if not found:
        notes.append(f"{folder} has no run like this one: add it with vmtests history add")
    return list(found.values()), notes


def _same_figure(one: Series, other: Series) -> bool:
    return all(one.key.get(name) == other.key.get(name) for name in _FIGURE)
