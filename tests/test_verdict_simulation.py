"""The verdict's promises, on simulated runs: how often equal kernels are called different, and what a run can see."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests import simulation
from tests.simulation import HOSTS, KERNELS, Host
from vmtests.record import BindEntry
from vmtests.timing import effect, sequential, verdict
from vmtests.timing.effect import BAND, Floats, Judgement
from vmtests.timing.samples import METRICS, family

RUNS = 1000
PAIRS = sequential.LOOKS[-1]


@functools.cache
def _equal(host: Host) -> Floats:
    """Return runs x pairs x kernels x metrics of equal kernels."""
    return simulation.logarithms(host, RUNS, PAIRS, np.random.default_rng(2026))


def _differences(host: Host, metric: int) -> Floats:
    """Return runs x pairs."""
    values = _equal(host)
    return np.asarray(values[:, :, 1, metric] - values[:, :, 0, metric])


def _stopped(binds: Sequence[BindEntry], looks: Sequence[int]) -> list[BindEntry]:
    """Return the binds of the pairs that run until the plan says stop."""
    done = 0
    while True:
        found = [bind for bind in binds if bind.boot < done]
        decision = sequential.decide(found, KERNELS, "wall", done, looks=looks)
        if decision.stop:
            return found
        done = decision.until


def _judge(binds: Sequence[BindEntry]) -> list[Judgement]:
    """Judge a run as its record does, both metrics, without the tests beside it, which take time."""
    return [one for metric in METRICS for one in verdict.judge(family(binds, KERNELS, "wall", metric))]


def _wrong(judged: Sequence[Judgement]) -> list[float]:
    """Return by how much each wrong verdict on equal kernels is wrong."""
    return [abs(one.ratio - 1) for one in judged if one.word in ("faster", "slower")]


def _word(differences: Floats) -> str:
    return effect.judge([effect.paired(differences)])[0].word


@pytest.mark.parametrize("looks", [(12,), sequential.LOOKS], ids=["fixed", "auto"])
@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_equal_kernels_are_seldom_called_different(host: Host, looks: tuple[int, ...]) -> None:
    """At most 5 % of runs have any wrong verdict, by either metric, and at most 1 % one beyond the band."""
    wrong = [_wrong(_judge(_stopped(simulation.binds(run), looks))) for run in _equal(host)]
    assert sum(map(bool, wrong)) <= 0.05 * RUNS
    assert sum(max(sizes, default=0) > BAND for sizes in wrong) <= 0.01 * RUNS


@pytest.mark.parametrize("width", [0.006, 0.012, 0.018, 0.03, 0.2])
def test_looks_keep_the_error_of_the_run(width: float) -> None:
    """Without drift, neighbours and outliers, which all make a test say less, three looks stay within the promise too.

    The widths straddle the one at which the interval changes its confidence.
    """
    differences = np.random.default_rng(1).normal(0, width * math.sqrt(2), (RUNS, PAIRS))
    wrong = []
    for run in differences:
        judged = None
        for look in sequential.LOOKS:
            judged = effect.judge([effect.paired(run[:look])])[0]
            if judged.word != "no-verdict":
                break
        assert judged is not None
        wrong += _wrong([judged])
    assert len(wrong) <= 0.05 * RUNS
    assert sum(size > BAND for size in wrong) <= 0.01 * RUNS


def test_kinds_that_gate_share_the_error() -> None:
    """Four kinds of namespaces give no more wrong verdicts than one: Holm."""
    values = np.random.default_rng(3).normal(0, 0.01, (RUNS, 4, 12))
    wrong = [_wrong(effect.judge([effect.paired(kind) for kind in run])) for run in values]
    assert sum(map(bool, wrong)) <= 0.03 * RUNS


def test_boots_that_are_no_pairs_keep_the_error_too() -> None:
    """Boots of two records, not as many and not as noisy on one side as on the other."""
    rng = np.random.default_rng(6)
    effects = [effect.unpaired(rng.normal(0, 0.01, 6), rng.normal(0, 0.02, 12)) for _ in range(RUNS)]
    assert len(_wrong([effect.judge([one])[0] for one in effects])) <= 0.03 * RUNS


def test_a_clear_kind_leaves_its_share_to_the_others() -> None:
    rng = np.random.default_rng(3)
    clear, other = (effect.paired(rng.normal(mean, 0.01, 12)) for mean in (0.5, 0.0))
    alone, pair = effect.judge([other])[0], effect.judge([other, clear])
    assert pair[0].low == alone.low
    assert pair[1].word == "slower"
    assert effect.judge([other, other])[0].low != alone.low


@pytest.mark.parametrize("metric", [0, 1], ids=METRICS)
@pytest.mark.parametrize("pairs", sequential.LOOKS)
@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_a_run_finds_what_it_claims_to_see(host: Host, pairs: int, metric: int) -> None:
    """A change of the size that each run claims, added to that run's own samples, is found in at least 80 %."""
    found = claimed = 0
    for run in _differences(host, metric)[: RUNS // 4, :pairs]:
        visible = effect.judge([effect.paired(run)])[0].smallest_visible
        if visible is not None:
            claimed += 1
            found += _word(run + math.log1p(visible)) == "slower"
    assert claimed >= 0.98 * RUNS // 4
    assert found >= 0.80 * claimed


@pytest.mark.parametrize("pairs", [6, 20])
@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_the_next_run_finds_it_too(host: Host, pairs: int) -> None:
    """The same, added to another run on the same host, whose spread is not the one that the claim was made from."""
    runs = _differences(host, 1)[:, :pairs]
    claims = [effect.judge([effect.paired(run)])[0].smallest_visible for run in runs]
    found = [
        _word(following + math.log1p(claim)) == "slower"
        for following, claim in zip(np.roll(runs, 1, axis=0), claims, strict=True)
        if claim is not None
    ]
    assert len(found) >= 0.99 * RUNS
    assert sum(found) >= 0.80 * len(found)


@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_a_run_that_looks_finds_what_it_claims_to_see(host: Host) -> None:
    """The claim of the look that ended the run, added to all its pairs: the run, made again, says slower."""
    found = claimed = 0
    for run in _equal(host)[: RUNS // 4]:
        visible = _judge(_stopped(simulation.binds(run), sequential.LOOKS))[1].smallest_visible
        assert visible is not None
        patched = simulation.binds(run, effect=math.log1p(visible))
        claimed += 1
        found += _judge(_stopped(patched, sequential.LOOKS))[1].word == "slower"
    assert found >= 0.80 * claimed
