"""What becomes a sample and what does not; the published figures; the gate; when a run stops."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.test_record import BIND
from vmtests.errors import ExitCode, UsageError
from vmtests.record import BindEntry, ComparisonEntry, RecordWriter, read
from vmtests.timing import effect, sequential, verdict
from vmtests.timing.samples import pair

KERNELS = ("base", "patched")


def _boot(kernel: str, boot: int, first: float, rebinds: Sequence[float], **fields: object) -> list[BindEntry]:
    """Return the binds of one boot; times in milliseconds, or instructions for each page."""
    scale = BIND.pages if fields.get("clock") == "icount" else 1e6
    return [
        dataclasses.replace(BIND, kernel=kernel, boot=boot, index=index, duration_ns=round(time * scale), **fields)  # type: ignore[arg-type]
        for index, time in enumerate([first, *rebinds])
    ]


def _run(base: Sequence[float], patched: Sequence[float], **fields: object) -> list[BindEntry]:
    """Return a run of pairs: the times of all rebinds of each boot; first binds take five times as long."""
    return [
        bind
        for kernel, times in zip(KERNELS, (base, patched), strict=True)
        for boot, time in enumerate(times)
        for bind in _boot(kernel, boot, 5 * time, [time] * 3, **fields)
    ]


def _rebind(binds: Sequence[BindEntry], clock: str = "wall") -> ComparisonEntry:
    found = verdict.compare(binds, *KERNELS, BIND.namespace, clock, "rebind")
    assert found is not None
    return found


PUBLISHED = [
    # namespace, base: first and average, patched: first and average, percent of the averages
    ("fsdax-dev", (1486, 273.52), (1421, 246.14), 10.0),
    ("fsdax-dev", (1486, 273.52), (1272, 104.59), 61.8),
    ("devdax-2m-mem", (1515, 313.45), (1422, 256.56), 18.1),
    ("devdax-2m-mem", (1515, 313.45), (1422, 240.42), 23.3),
    ("devdax-2m-mem", (1430, 229.12), (1336, 180.00), 21.4),
    ("fsdax-dev", (1456, 244.28), (1272, 96.79), 60.4),
    ("devdax-2m-mem", (1462, 273.31), (1354, 119.04), 56.4),
]


@pytest.mark.parametrize(("namespace", "base", "patched", "percent"), PUBLISHED)
def test_the_published_figures(
    namespace: str, base: tuple[float, float], patched: tuple[float, float], percent: float
) -> None:
    """The published times, with 1 % of noise between boots, give the published percentages and "faster"."""
    noise = np.exp(np.random.default_rng(1).normal(0, 0.01, (6, 2)))
    noise /= np.exp(np.log(noise).mean(axis=0))
    binds = [
        bind
        for boot, factors in enumerate(noise)
        for kernel, (first, average), factor in zip(KERNELS, (base, patched), factors, strict=True)
        for bind in _boot(kernel, boot, first * factor, [average * factor] * 30, namespace=namespace)
    ]
    firsts, rebinds = verdict.compare_all(binds, KERNELS, "wall")
    assert round((1 - rebinds.ratio) * 100, 1) == percent
    assert rebinds.verdict == "faster"
    assert rebinds.base_value == pytest.approx(base[1], rel=0.01)
    assert rebinds.unit == "ms"
    assert firsts.ratio == pytest.approx(patched[0] / base[0], rel=1e-4)
    assert firsts.metric == "first"


def test_a_boot_counts_once() -> None:
    """The median of a boot's rebinds is its sample: an outlier among them changes nothing."""
    binds = [
        dataclasses.replace(
            bind, duration_ns=bind.duration_ns * (9 if bind.kernel == "base" and bind.index == 1 else 1)
        )
        for bind in _run([10, 11, 12], [10, 11, 12])
    ]
    found = _rebind(binds)
    assert (found.ratio, found.pairs) == (1.0, 3)


def test_a_pair_with_a_dead_boot_is_dropped_and_counted() -> None:
    """Boot 2 of the patched kernel died after its first bind: its pair says nothing, by either metric."""
    binds = [bind for bind in _run([10] * 7, [9] * 7) if (bind.kernel, bind.boot) != ("patched", 2) or bind.index == 0]
    for found in verdict.compare_all(binds, KERNELS, "wall"):
        assert (found.pairs, found.dropped_pairs) == (6, 1)
    whole = [bind for bind in binds if bind.boot != 2]
    assert _rebind(binds).ratio == _rebind(whole).ratio


def test_a_pair_with_missing_samples_is_dropped_and_counted() -> None:
    binds = [bind for bind in _run([10] * 3, [9] * 3) if (bind.kernel, bind.boot, bind.index) != ("base", 1, 3)]
    found = _rebind(binds)
    assert (found.pairs, found.dropped_pairs) == (2, 1)


def test_a_pair_that_left_nothing_is_counted_when_the_plan_is_known() -> None:
    (found,) = verdict.compare_all(_run([10] * 3, [9] * 3), KERNELS, "wall", metrics=("rebind",), planned=5)
    assert (found.pairs, found.dropped_pairs) == (3, 2)


def test_no_whole_pair_is_no_comparison() -> None:
    binds = _boot("base", 0, 50, [10] * 3) + _boot("patched", 1, 50, [10] * 3)
    assert verdict.compare_all(binds, KERNELS, "wall") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clock": "icount"}, "by the clock icount and wall where wall alone"),
        ({"pages": BIND.pages - 512}, "pages, they are not one series"),
        ({"duration_ns": 0}, "no time or no pages"),
        ({"index": 2}, "boot 0: bind 2 is there twice"),
    ],
)
def test_what_cannot_be_one_series(change: dict[str, object], message: str) -> None:
    binds = _run([10], [9])
    binds[1] = dataclasses.replace(binds[1], **change)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        verdict.compare_all(binds, KERNELS, "wall")


def test_other_numbers_of_pages_are_not_compared() -> None:
    binds = _boot("base", 0, 50, [10]) + _boot("patched", 0, 50, [9], pages=1 << 20)
    with pytest.raises(UsageError, match=f"base initialised {BIND.pages} pages and patched 1048576"):
        pair(binds, *KERNELS, BIND.namespace, "wall", "rebind")


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_few_pairs_see_little_and_say_so(pairs: int) -> None:
    """With 1 % of noise one pair and two have no verdict on a tenth; three see no less than a tenth."""
    noise = [1.0, 1.01, 0.99][:pairs]
    found = _rebind(_run([10] * pairs, [9 * one for one in noise]))
    assert found.verdict == "no-verdict"
    assert found.smallest_visible is None or found.smallest_visible > 0.1


def test_two_pairs_that_tell_nothing_have_no_interval() -> None:
    """By their t its ends would be e to the power of hundreds, which no number and no record can hold."""
    found = _rebind(_run([10, 10], [9, 900]))
    assert (found.verdict, found.ci_low, found.ci_high, found.smallest_visible) == ("no-verdict", None, None, None)


def test_the_exact_test_stands_beside_the_interval() -> None:
    found = _rebind(_run([10] * 6, [9, 9.1, 8.9, 9.2, 9, 9]))
    assert found.sign_flip_p == 2 / 2**6
    assert found.confidence == 0.98
    assert effect.sign_flip(np.random.default_rng(0).normal(0.02, 0.01, 20)) < 0.001
    assert effect.sign_flip(np.array([0.1])) == 1.0


def test_a_noisy_interval_is_held_to_more() -> None:
    assert _rebind(_run([10] * 6, [9, 10, 8, 11, 9, 7])).confidence == 0.9975


def test_boots_that_agree_to_the_digit() -> None:
    same, other = _rebind(_run([10] * 2, [10] * 2)), _rebind(_run([10] * 2, [11] * 2))
    assert (same.verdict, same.smallest_visible) == ("same", 0.0)
    assert other.verdict == "slower"


def test_the_fields_of_a_comparison_survive_the_record(tmp_path: Path) -> None:
    found = verdict.compare_all(_run([10] * 6, [9, 9.1, 8.9, 9.2, 9, 9]), KERNELS, "wall", planned=7)
    writer = RecordWriter(tmp_path, argv=[], seed=1)
    writer.add(*found)
    writer.save(ExitCode.PASSED)
    assert list(read(tmp_path).entries(ComparisonEntry)) == found


def test_counts_say_what_they_can_see() -> None:
    """One pair sees what cannot hide behind the tolerance; a change of that size is found in spite of the noise."""
    found = _rebind(_run([55], [55], clock="icount"), "icount")
    assert found.smallest_visible == pytest.approx(0.0015)
    noise = np.random.default_rng(1).normal(0, 1e-5, 100)
    more = [_rebind(_run([55], [55 * (1.0015 + one)], clock="icount"), "icount").verdict for one in noise]
    assert more == ["slower"] * 100


def test_counts_of_a_broken_rig_give_no_verdict() -> None:
    """Boots of one kernel must not differ by what would be a change between two."""
    found = _rebind(_run([55, 55.2], [60, 60], clock="icount"), "icount")
    assert found.verdict == "no-verdict"
    assert found.noise_floor == pytest.approx(0.2 / 55)
    assert verdict.gate(found, 0.01) is ExitCode.NO_VERDICT


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (1.02, 1.05, ExitCode.KERNEL_FAILED),
        (1.005, 1.05, ExitCode.NO_VERDICT),
        (0.97, 1.02, ExitCode.NO_VERDICT),
        (0.99, 1.01, ExitCode.PASSED),
        (0.5, 0.6, ExitCode.PASSED),
        (None, None, ExitCode.NO_VERDICT),
    ],
)
def test_the_gate_wants_the_whole_interval(low: float | None, high: float | None, code: ExitCode) -> None:
    assert verdict.gate_interval(low, high, 0.01) is code


QUIET = [1, 1.001, 0.999, 1.002, 0.998, 1.0]
NOISY = [1, 1.3, 0.7, 1.2, 0.9, 1.1]


def _decide(factors: Sequence[float], done: int, **more: object) -> sequential.Decision:
    binds = _run([10] * len(factors), [10 * factor for factor in factors])
    return sequential.decide(binds, KERNELS, "wall", done, **more)  # type: ignore[arg-type]


def test_a_clear_verdict_ends_the_run() -> None:
    found = _decide(QUIET, 6)
    assert (found.stop, found.until) == (True, 6)
    assert "clear after 6 pairs" in found.reason


def test_no_clear_verdict_goes_on_to_the_next_look() -> None:
    assert _decide(NOISY, 6) == sequential.Decision(
        False, "no clear verdict after 6 pairs, the next look is after 12", 12
    )


def test_between_looks_nobody_looks() -> None:
    """However clear the pairs are: a look that was not planned would be one more chance to be wrong."""
    assert not _decide([0.5] * 5, 5).stop
    assert _decide([0.5] * 7, 7).until == 12


def test_the_last_look_and_the_budget_end_the_run() -> None:
    assert _decide(NOISY, 20).stop
    assert "budget" in _decide(NOISY, 3, out_of_time=True).reason
    assert _decide(NOISY, 3, looks=(3,)).stop


def test_a_gate_must_be_decided_before_the_run_ends() -> None:
    """Surely slower, but by more than 1 % or by less? Surely within the band, but within 1 %?"""
    slower = [1.01 * factor for factor in QUIET]
    assert _decide(slower, 6).stop
    assert not _decide(slower, 6, limit=0.01).stop
    assert _decide(QUIET, 6, limit=0.01).stop


def test_a_kind_without_a_pair_is_not_clear() -> None:
    binds = _run([10] * 2, [9] * 2) + _boot("base", 0, 50, [10] * 3, namespace="devdax-2m-mem")
    assert not sequential.decide(binds, KERNELS, "wall", 2, looks=(2, 12)).stop


def test_a_lost_pair_is_bad_luck_and_three_in_a_row_are_not() -> None:
    """Boots 2 to 4 of the patched kernel died: two of them may be bad luck, the third ends the run."""
    binds = [bind for bind in _run([10] * 5, [9] * 5) if bind.kernel == "base" or bind.boot < 2]
    assert not sequential.decide([bind for bind in binds if bind.boot < 4], KERNELS, "wall", 4).stop
    found = sequential.decide(binds, KERNELS, "wall", 5)
    assert found.stop
    assert "last 3 pairs have lost a boot" in found.reason
    assert sequential.decide([], KERNELS, "wall", 3).stop


def test_counts_look_once() -> None:
    binds = _run([55], [55], clock="icount")
    assert sequential.decide(binds, KERNELS, "icount", 1, looks=sequential.COUNT_LOOKS).stop
