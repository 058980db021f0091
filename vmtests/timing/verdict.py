"""What a patch did to the time: faster, slower, the same, or no verdict.

Times are judged by `effect`. A count of instructions needs no statistics: the same kernel gives the same count, and one
pair of boots decides. Where two boots of one kernel do not agree, the rig is broken, and there is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vmtests.errors import ExitCode
from vmtests.record import BindEntry, ComparisonEntry
from vmtests.timing import effect, rig
from vmtests.timing.effect import BAND, Judgement, Word
from vmtests.timing.samples import METRICS, Boots, Metric, Pairs, family

__all__ = [
    "BAND",
    "COUNT_TOLERANCE",
    "METRICS",
    "compare",
    "compare_all",
    "count_word",
    "entry",
    "gate",
    "gate_interval",
    "judge",
]

#: An instruction count that moved by no more than this is "same": twice the widest spread of a quiet rig.
COUNT_TOLERANCE = 0.001


def judge(pairs: Sequence[Pairs], band: float = BAND) -> list[Judgement]:
    """Judge the times of one family."""
    return effect.judge([effect.paired(one.differences) for one in pairs], band)


def compare_all(
    binds: Sequence[BindEntry],
    kernels: Sequence[str],
    clock: str,
    *,
    metrics: Sequence[Metric] = METRICS,
    band: float = BAND,
    planned: int | None = None,
) -> list[ComparisonEntry]:
    """Compare every kernel with the first, in each namespace and by each metric that has a whole pair of boots.

    Args:
        binds: of the whole run.
        kernels: the base first.
        clock: the run's.
        metrics: which to compare.
        band: a change whose interval lies inside 1 +- this is "same"; a gate's limit, if there is one.
        planned: how many pairs were begun, so that one of which neither boot left a bind is counted as dropped too.

    Raises:
        UsageError: as `samples.pair` does.
    """
    found = []
    distrusted = {(one.kernel, one.namespace) for one in rig.check(binds)}
    for metric in metrics:
        together = family(binds, kernels, clock, metric)
        judged = [None] * len(together) if clock == "icount" else judge(together, band)
        for one, judgement in zip(together, judged, strict=True):
            pairs = len(one.differences)
            found.append(
                entry(
                    one.base,
                    one.patched,
                    judgement,
                    trusted=distrusted.isdisjoint((boots.kernel, boots.namespace) for boots in (one.base, one.patched)),
                    pairs=pairs,
                    dropped_pairs=one.dropped if planned is None else planned - pairs,
                    sign_flip_p=None if judgement is None else effect.sign_flip(one.differences),
                )
            )
    return found


def compare(
    binds: Sequence[BindEntry], base: str, patched: str, namespace: str, clock: str, metric: Metric
) -> ComparisonEntry | None:
    """Compare two kernels by one metric, on its own; None when there is not one whole pair of boots."""
    chosen = [bind for bind in binds if bind.namespace == namespace]
    return next(iter(compare_all(chosen, (base, patched), clock, metrics=(metric,))), None)


def entry(
    base: Boots, patched: Boots, judged: Judgement | None, *, trusted: bool = True, **more: Any
) -> ComparisonEntry:
    """Return what the record says of two kernels.

    Args:
        base, patched: their boots.
        judged: None for counts.
        trusted: whether the boots of each kernel count alike.
        more: the entry's other fields.
    """
    return ComparisonEntry(
        base=base.kernel,
        patched=patched.kernel,
        namespace=base.namespace,
        clock=base.clock,
        metric=base.metric,
        base_value=base.middle,
        patched_value=patched.middle,
        unit=base.unit,
        **(_counted(base, patched, trusted) if judged is None else _timed(judged)),
        **more,
    )


def _timed(judged: Judgement) -> dict[str, Any]:
    return {
        "ratio": judged.ratio,
        "ci_low": judged.low,
        "ci_high": judged.high,
        "confidence": judged.confidence,
        "noise_floor": judged.noise_floor,
        "smallest_visible": judged.smallest_visible,
        "verdict": judged.word,
    }


def _counted(base: Boots, patched: Boots, trusted: bool) -> dict[str, Any]:
    """Judge counts: a tolerance, no interval; no verdict where the boots of one kernel differ by more than that.

    A change is visible when it cannot hide behind the tolerance and what boots differ by: what was seen of that, and
    at least half the tolerance, the widest spread of a quiet rig.
    """
    ratio = math.exp(float(patched.array.mean() - base.array.mean()))
    floor = max(base.disagreement, patched.disagreement)
    return {
        "ratio": ratio,
        "ci_low": None,
        "ci_high": None,
        "noise_floor": floor if len(base.values) > 1 else None,
        "smallest_visible": COUNT_TOLERANCE + max(COUNT_TOLERANCE / 2, floor),
        "verdict": "no-verdict" if floor > COUNT_TOLERANCE or not trusted else count_word(ratio),
    }


def count_word(ratio: float) -> Word:
    """Return the verdict on a ratio of two counts."""
    if abs(ratio - 1) <= COUNT_TOLERANCE:
        return "same"
    return "slower" if ratio > 1 else "faster"


def gate(comparison: ComparisonEntry, limit: float) -> ExitCode:
    """Return the exit code that one comparison means under a gate.

    Args:
        comparison: of the rebinds.
        limit: the slowdown that is still allowed, as a fraction.
    """
    if comparison.clock == "icount" and comparison.verdict != "no-verdict":
        count = 1.0 if comparison.verdict == "same" else comparison.ratio
        return gate_interval(count, count, limit)
    return gate_interval(comparison.ci_low, comparison.ci_high, limit)


def gate_interval(low: float | None, high: float | None, limit: float) -> ExitCode:
    """Fail when the whole interval lies above the limit, pass when none of it does; else there is no verdict."""
    if low is None or high is None or low <= 1 + limit < high:
        return ExitCode.NO_VERDICT
    return ExitCode.KERNEL_FAILED if low > 1 + limit else ExitCode.PASSED
