"""What is a change in a plain series, and how soon it is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vmtests.timing import changes
from vmtests.timing.changes import Change, Point
from vmtests.timing.effect import Floats


def _points(values: Sequence[float] | Floats) -> list[Point]:
    return [Point(f"run{index}", f"night {index}", "kernel", float(value)) for index, value in enumerate(values)]


def _nightly(values: Sequence[float]) -> list[Change]:
    """Check after every night, as the history does."""
    known: set[str] = set()
    found: list[Change] = []
    for night in range(1, len(values) + 1):
        found = changes.of_ratios(_points(values[:night]), {}, known)
        known |= {change.after.run for change in found}
    return found


def test_two_nights_are_no_change_and_three_are() -> None:
    """However large: at least three runs on both sides."""
    values = [1.0, 1.001, 0.999, 1.0, 1.002, 0.998, 1.0, 1.001, 2.0, 2.001, 1.999]
    assert _nightly(values[:10]) == []
    (change,) = _nightly(values)
    assert change.after.run == "run8"


def test_times_that_do_not_change_seldom_raise_an_alert() -> None:
    """One hundred nights, checked every night, 60 series of 2 % of noise; half of them with one wild night."""
    rng = np.random.default_rng(4)
    values = np.exp(rng.normal(0, 0.02, (60, 100)))
    for series in values[:30]:
        series[rng.integers(5, 95)] *= 1.3
    assert sum(bool(_nightly(list(series))) for series in values) <= 3


@pytest.mark.parametrize(("step", "nights", "found"), [(0.05, 5, 0.6), (0.05, 14, 0.9), (0.1, 3, 0.95)])
def test_a_step_is_found_in_time(step: float, nights: int, found: float) -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        logs = rng.normal(0, 0.02, 40 + nights) + np.where(np.arange(40 + nights) < 40, 0, np.log1p(step))
        hits += any(
            abs(int(change.after.run[3:]) - 40) <= 2 for change in changes.of_ratios(_points(np.exp(logs)), {}, ())
        )
    assert hits >= found * 200


def test_a_step_that_goes_back_is_fixed() -> None:
    values = [1.0, 1.001, 0.999] * 3 + [1.1, 1.101, 1.099] * 3 + [1.0, 1.001, 0.999] * 3
    (change,) = _nightly(values)
    assert change.fixed == "back in run run18"


def test_an_accepted_ratio_is_fixed() -> None:
    values = [1.0, 1.001, 0.999] * 3 + [1.1, 1.101, 1.099] * 3
    (change,) = changes.of_ratios(_points(values), {"run17": "meant"}, ())
    assert change.fixed == "accepted: meant"
