"""What a patch did to the time: one number a boot, one difference a pair of boots, and a verdict with four values.

The boot is the sample and the rebind is not: rebinds of one boot share its memory layout and its host's mood, and
pooling them calls equal kernels different in more than a third of all runs. So each boot gives the median of its
rebinds, each pair of boots (base and patched, back to back) one difference of logarithms, and Student's t their
interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from vmtests.errors import ExitCode
from vmtests.record import BindEntry, ComparisonEntry

Metric = Literal["first", "rebind"]
METRICS: tuple[Metric, ...] = ("first", "rebind")

#: A wall-clock change whose interval lies inside 1 +- this is "same".
BAND = 0.05
#: An instruction count that moved by no more than this is "same": twice the widest spread of a quiet rig.
COUNT_TOLERANCE = 0.001
CONFIDENCE = 0.95
POWER = 0.80


@dataclass(frozen=True)
class Boots:
    """One number for each boot of one kernel: instructions or nanoseconds for each page, by the boot's number."""

    kernel: str
    pages: int
    values: dict[int, float]


def per_boot(binds: Iterable[BindEntry], kernel: str, namespace: str, metric: Metric) -> Boots:
    """Reduce a kernel's binds to one number a boot: the median of its rebinds, or its first bind.

    A poisoned bind is never a sample: its memory was written by the host a moment ago.
    """
    chosen = [
        bind
        for bind in binds
        if bind.kernel == kernel
        and bind.namespace == namespace
        and not bind.poisoned
        and (bind.index == 0) == (metric == "first")
    ]
    values = {
        boot: math.exp(
            float(np.median([math.log(bind.duration_ns / bind.pages) for bind in chosen if bind.boot == boot]))
        )
        for boot in sorted({bind.boot for bind in chosen})
    }
    return Boots(kernel, chosen[0].pages if chosen else 0, values)


def compare(
    binds: Sequence[BindEntry], base: str, patched: str, namespace: str, clock: str, metric: Metric
) -> ComparisonEntry | None:
    """Compare two kernels by one metric; None when there is not one whole pair of boots.

    Unpaired boots are dropped: half a pair says nothing.
    """
    one, other = per_boot(binds, base, namespace, metric), per_boot(binds, patched, namespace, metric)
    numbers = sorted(one.values.keys() & other.values.keys())
    if not numbers or one.pages != other.pages:
        return None
    differences = np.array([math.log(other.values[n] / one.values[n]) for n in numbers])
    ratio = math.exp(float(differences.mean()))
    low, high, visible, floor = _interval(differences)
    if clock == "icount":
        visible = COUNT_TOLERANCE
        verdict = _count_verdict(ratio)
    else:
        verdict = _time_verdict(low, high)
    scale, unit = (1.0, "instructions/page") if clock == "icount" else (one.pages / 1e6, "ms")
    return ComparisonEntry(
        base=base,
        patched=patched,
        namespace=namespace,
        clock=clock,
        metric=metric,
        base_value=_middle(one, numbers) * scale,
        patched_value=_middle(other, numbers) * scale,
        unit=unit,
        ratio=ratio,
        ci_low=low,
        ci_high=high,
        pairs=len(numbers),
        noise_floor=floor,
        smallest_visible=visible,
        verdict=verdict,
    )


def _middle(boots: Boots, numbers: Sequence[int]) -> float:
    return float(np.median([boots.values[number] for number in numbers]))


def _interval(differences: np.ndarray) -> tuple[float | None, float | None, float | None, float | None]:
    """Return the ratio's interval, the smallest visible change and the noise floor; None where one pair is all.

    The smallest visible change is found in 80 % of runs like this one; the noise floor is what one boot differs from
    another of the same kernel by, judged from the scatter of the pairs.
    """
    k = len(differences)
    if k < 2:
        return None, None, None, None
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    error = spread / math.sqrt(k)
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, k - 1))
    visible = math.exp((reach + float(stats.t.ppf(POWER, k - 1))) * error) - 1
    floor = math.exp(spread / math.sqrt(2)) - 1
    return math.exp(mean - reach * error), math.exp(mean + reach * error), visible, floor


def _count_verdict(ratio: float) -> str:
    if abs(ratio - 1) <= COUNT_TOLERANCE:
        return "same"
    return "slower" if ratio > 1 else "faster"


def _time_verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "no-verdict"
    if low > 1 - BAND and high < 1 + BAND:
        return "same"
    if low > 1:
        return "slower"
    return "faster" if high < 1 else "no-verdict"


def gate(comparison: ComparisonEntry, limit: float) -> ExitCode:
    """Return the exit code that one comparison means under a gate.

    Args:
        comparison: of the rebinds.
        limit: the slowdown that is still allowed, as a fraction.
    """
    if comparison.verdict == "no-verdict":
        return ExitCode.NO_VERDICT
    low = comparison.ci_low if comparison.ci_low is not None else comparison.ratio
    return ExitCode.KERNEL_FAILED if comparison.verdict == "slower" and low > 1 + limit else ExitCode.PASSED
