"""Series of comparable figures, as the lines of a history make them up, and the alerts that their changes raise."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vmtests.timing import changes
from vmtests.timing.changes import Change, Point
from vmtests.timing.figures import Figure
from vmtests.timing.log import Line


@dataclass(frozen=True)
class Series:
    """The figures of one kernel that can be compared: `points` in the order of time, `accepted` reasons by run."""

    id: str
    key: dict[str, str]
    points: tuple[Point, ...]
    accepted: dict[str, str]
    known: frozenset[str]

    @property
    def unit(self) -> str:
        """What the values are."""
        return "instructions/page" if self.key["clock"] == "icount" else f"of {self.key.get('reference')}"

    def changes(self) -> list[Change]:
        """Return the changes of the series, the fixed ones too."""
        if self.key["clock"] == "icount":
            return changes.of_counts(self.points, self.accepted)
        return changes.of_ratios(self.points, self.accepted, self.known)

    def __str__(self) -> str:
        head = " ".join(self.key[name] for name in ("kernel", "namespace", "metric", "clock"))
        last, accepted = self.points[-1], next(reversed(self.accepted), None)
        baseline = (
            f"baseline run {accepted}" if accepted else f"no baseline accepted, begun by run {self.points[0].run}"
        )
        return f"{self.id}  {head}: {last.value:.4f} {self.unit} in run {last.run}, {len(self.points)} runs, {baseline}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "id": self.id,
            "key": self.key,
            "unit": self.unit,
            "points": [vars(point) for point in self.points],
            "accepted": self.accepted,
        }


@dataclass(frozen=True)
class Alert:
    """A change and its state: "new" when no check has told it before, "known", or "fixed"."""

    series: Series
    change: Change
    state: str

    @property
    def word(self) -> str:
        """What the change is called: instructions are fewer or more, times faster or slower."""
        words = ("fewer", "more") if self.series.key["clock"] == "icount" else ("faster", "slower")
        return words[self.change.size > 0]

    def __str__(self) -> str:
        change, key = self.change, self.series.key
        size = f"{change.size * 100:+.2f} % ({self.word})"
        text = (
            f"{self.state}: {key['kernel']} {key['namespace']} {key['metric']} ({key['clock']}): "
            f"{size}, {change.old:.4f} -> {change.new:.4f} {self.series.unit}\n"
            f"  run {change.before.run} ({change.before.started}): {change.before.kernel}\n"
            f"  run {change.after.run} ({change.after.started}): {change.after.kernel}\n"
        )
        if change.fixed:
            return f"{text}  {change.fixed}"
        return f"{text}  if it is meant: vmtests history accept DIR {self.series.id} --reason ..."

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        change = self.change
        return {
            "series": self.series.id,
            "state": self.state,
            "size": change.size,
            "old": change.old,
            "new": change.new,
            "before": vars(change.before),
            "after": vars(change.after),
            "fixed": change.fixed,
        }


def read(lines: Sequence[Line], damaged: Sequence[str]) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """Return the series that the lines of a history make up, and what is wrong with lines, `damaged` first."""
    points: dict[str, dict[str, Point]] = defaultdict(dict)
    keys: dict[str, dict[str, str]] = {}
    accepted: dict[str, dict[str, str]] = defaultdict(dict)
    known: dict[str, set[str]] = defaultdict(set)
    wrong = list(damaged)
    for line in lines:
        try:
            value = line.value
            match value["kind"]:
                case "run":
                    _seconds(value["started"])
                    for figure in [Figure.from_json(one) for one in value["figures"]]:
                        keys[figure.series] = figure.key
                        point = Point(str(value["run"]), value["started"], figure.kernel, figure.value)
                        points[figure.series][point.run] = point
                case "accepted":
                    accepted[value["series"]].pop(value["run"], None)
                    accepted[value["series"]][value["run"]] = str(value["reason"])
                case "alert":
                    known[value["series"]].add(value["run"])
        except (KeyError, TypeError, ValueError) as error:
            wrong.append(f"{line.where}: damaged ({type(error).__name__}: {error}), skipped")
    found = [
        Series(
            name,
            key,
            tuple(sorted(points[name].values(), key=lambda point: _seconds(point.started))),
            accepted[name],
            frozenset(known[name]),
        )
        for name, key in keys.items()
    ]
    return tuple(sorted(found, key=lambda one: sorted(one.key.items()))), tuple(wrong)


def _seconds(started: str) -> float:
    return datetime.datetime.fromisoformat(started).timestamp()
