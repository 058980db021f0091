"""Where a series of nightly figures changed, and which changes are still open. Pure: no files, no clock.

A series is cut into plateaus. Of counts each run is a plateau of its own, since they repeat to some parts per million.
Times are noisy: a cut needs a change of mean that Student's t, with the spread of both sides pooled, puts at one in a
thousand after Bonferroni over all the places where it could be, at least three runs on both sides, and 2 %. One wild
night is no change: it widens the spread as it is, and moves the mean only as far as the nights around it reach. A cut
that was reported stays where it is, whatever later runs would make of it: one change, one alert.

Checked every night for 100 nights of 1 to 5 % noise, at most 3 of 100 series without a change get a false cut, and at
most 4 with a night that is 30 % off; with 2 % of noise a step of 5 % is found after 5 nights in 7 of 10 series, after
14 in all. E-divisive (Apache Otava) finds steps as soon, but its pins on numpy and scipy exclude this project's, and it
gives up to 30 of 100 series a wrong point beside the right one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import special

from vmtests.timing.effect import Floats
from vmtests.timing.verdict import COUNT_TOLERANCE

#: A change of time by less is not reported.
TIME_TOLERANCE = 0.02
_SIDE = 3
_P_LIMIT = 0.001


@dataclass(frozen=True)
class Point:
    """One run in a series: instructions for each page, or the ratio to the reference kernel."""

    run: str
    started: str
    kernel: str
    value: float


@dataclass(frozen=True)
class Change:
    """A step in a series. `fixed` says what ended it: a run that is back where it was, or a new baseline."""

    before: Point
    after: Point
    old: float
    new: float
    fixed: str | None = None

    @property
    def size(self) -> float:
        """The change as a fraction; more than 0 is slower."""
        return self.new / self.old - 1


@dataclass(frozen=True)
class _Plateau:
    points: tuple[Point, ...]
    value: float


def of_counts(points: Sequence[Point], accepted: Mapping[str, str]) -> list[Change]:
    """Return the changes of counts, held against the last accepted baseline; without one, against the first run.

    Args:
        points: in the order of time.
        accepted: reasons by run, in the order in which they were given.
    """
    plateaus = [_Plateau((point,), point.value) for point in points]
    return _changes(plateaus, accepted, COUNT_TOLERANCE, COUNT_TOLERANCE)


def of_ratios(points: Sequence[Point], accepted: Mapping[str, str], known: Collection[str]) -> list[Change]:
    """Return the changes of ratios of times.

    Args:
        points: in the order of time.
        accepted: reasons by run, in the order in which they were given.
        known: the runs at which a change was reported before.
    """
    logs = np.log([point.value for point in points])
    tamed = _tame(logs)
    cuts = {index for index, point in enumerate(points) if index and point.run in known}
    edges = [0, *sorted(cuts), len(points)]
    for start, end in pairwise(edges):
        cuts |= _cuts(logs, tamed, start, end)
    edges = [0, *sorted(cuts), len(points)]
    plateaus = [
        _Plateau(tuple(points[start:end]), math.exp(median(logs[start:end])))
        for start, end in pairwise(edges)
        if start < end
    ]
    return _changes(plateaus, accepted, 0.0, TIME_TOLERANCE)


def _sums(values: Floats, left: NDArray[np.int_]) -> tuple[Floats, Floats]:
    """Return the sums of the first `left` values, and those of the others."""
    sums = np.cumsum(values)
    return sums[left - 1], sums[-1] - sums[left - 1]


def _tame(logs: Floats) -> Floats:
    """Return the values with each one held to what the two on each side reach, and 2 %."""
    found = logs.copy()
    for index in range(len(logs)):
        around = np.concatenate([logs[max(index - 2, 0) : index], logs[index + 1 : index + 3]])
        if len(around):
            margin = math.log1p(TIME_TOLERANCE)
            found[index] = np.clip(logs[index], around.min() - margin, around.max() + margin)
    return found


def _cuts(logs: Floats, tamed: Floats, start: int, end: int) -> set[int]:
    """Return where logs[start:end] changes: the clearest cut, then the same on both sides of it."""
    count = end - start
    if count < 2 * _SIDE:
        return set()
    left = np.arange(_SIDE, count - _SIDE + 1)
    right = count - left
    squares = _sums(logs[start:end] ** 2, left)
    inside = sum(squares) - sum(
        one**2 / side for one, side in zip(_sums(logs[start:end], left), (left, right), strict=True)
    )
    error = np.sqrt(np.maximum(inside, 0) / (count - 2) * (1 / left + 1 / right))
    sums = _sums(tamed[start:end], left)
    change = np.abs(sums[1] / right - sums[0] / left)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = np.nan_to_num(2 * special.stdtr(count - 2, -change / error), nan=1.0) * len(left)
    p_values[change < math.log1p(TIME_TOLERANCE)] = 1.0
    best = int(np.argmin(p_values))
    if p_values[best] > _P_LIMIT:
        return set()
    cut = start + int(left[best])
    return {cut} | _cuts(logs, tamed, start, cut) | _cuts(logs, tamed, cut, end)


def _changes(plateaus: Sequence[_Plateau], accepted: Mapping[str, str], step: float, back: float) -> list[Change]:
    """Walk from each baseline to the next one, which ends the changes before it."""
    baselines = {0: ""} if plateaus else {}
    for run, reason in accepted.items():
        for index, plateau in enumerate(plateaus):
            if any(point.run == run for point in plateau.points):
                baselines = {at: why for at, why in baselines.items() if at < index} | {index: f"accepted: {reason}"}
    starts = list(baselines)
    found: list[Change] = []
    for start, following in zip(starts, [*starts[1:], None], strict=True):
        end = len(plateaus) if following is None else following + 1
        ended = None if following is None else baselines[following]
        for change in _walk(plateaus[start:end], step, back):
            found.append(change if change.fixed else replace(change, fixed=ended))
    return found


def _walk(plateaus: Sequence[_Plateau], step: float, back: float) -> list[Change]:
    """Return the steps away from the first plateau.

    A plateau that is back where a step began, as near as `back`, ends that step and those after it.
    """
    level = plateaus[0].value
    found: list[Change] = []
    still_open: list[int] = []
    for previous, plateau in pairwise(plateaus):
        if abs(plateau.value / level - 1) <= step:
            continue
        origins = [at for at in still_open if abs(plateau.value / found[at].old - 1) <= back]
        if origins:
            level = found[origins[0]].old
            ended = still_open[still_open.index(origins[0]) :]
            for at in ended:
                found[at] = replace(found[at], fixed=f"back in run {plateau.points[0].run}")
            still_open = [at for at in still_open if at not in ended]
        else:
            still_open.append(len(found))
            found.append(Change(previous.points[-1], plateau.points[0], level, plateau.value))
            level = plateau.value
    return found
