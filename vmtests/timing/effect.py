"""From differences between boots to a verdict: the statistics, without a word about kernels.

A difference is that of two logarithms, so it is a ratio, and slower and faster are alike. Student's t gives the mean
difference an interval, and the interval gives the verdict:

- it excludes "no change": "faster" or "slower", however small;
- it lies inside the band that was fixed beforehand: "same";
- else "no-verdict". What is not significant is never called the same.

**How often equal kernels may be called different.** In at most 5 of 100 runs, and in at most 1 of 100 by more than the
band. A plain interval at 98 % for each of three looks gives 4.9 %, but on a noisy host nearly all of those are beyond
the band, since a noisy run can only ever see large changes. So a run earns the 98 %: its interval must be narrow
enough to settle the matter (no wider than half the band either side: it then excludes "no change", or lies inside the
band, or both, so that such a look is the last). A wider interval is one at 99.75 %, and the 1 % of the run is shared by
three looks at the rebinds and one at the first binds. The sum: 2 % + 2 % + 1 %.

**The smallest visible change.** The textbook's, t of the interval plus t of the power, times the standard error, holds
for the very samples that it was computed from; but a spread that was estimated from 6 pairs is uncertain, and when the
run is made again only 62 to 75 of 100 runs find a change of that size. The power is therefore averaged over what the
true spread can be, given the one that was seen, and over the spread that a second run would see; and 85 % are asked for
where 80 % are promised, since neighbours and outliers make spreads differ by more than a bell curve does.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Word = Literal["faster", "slower", "same", "no-verdict"]
Floats = NDArray[np.float64]

#: A change whose interval lies inside 1 +- this is "same", unless a gate sets its own limit.
BAND = 0.05
#: How often one look may call equal kernels different, when it can tell changes inside the band.
LOOK_ERROR = 0.02
#: The same for a look that is too noisy for that, and whose errors would lie beyond the band.
NOISY_ERROR = 0.01 / 4
#: How many runs like this one find the smallest visible change.
POWER = 0.80
_POWER_ASKED = 0.85
#: What a run would need a hundredfold change for, it does not see.
_BLIND = math.log(100)
#: An interval that reaches a millionfold either way says nothing, and its ends may be too large for a number.
_ENDLESS = math.log(1e6)


@dataclass(frozen=True)
class Effect:
    """A difference of mean logarithms.

    `spread` is the standard deviation of a difference between two boots, `error` the standard error of `mean`; both
    are None where no boot was repeated, and `freedom`, the degrees of freedom, is 0 then.
    """

    mean: float
    spread: float | None = None
    error: float | None = None
    freedom: float = 0.0

    @property
    def p_value(self) -> float:
        """Student's two-sided p; 1 where it cannot be computed."""
        if self.error is None:
            return 1.0
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * special.stdtr(self.freedom, -abs(self.mean) / self.error))


def paired(differences: Floats) -> Effect:
    """Return the effect of pairs of boots, one difference a pair."""
    pairs = len(differences)
    mean = float(differences.mean())
    if pairs < 2:
        return Effect(mean)
    spread = float(differences.std(ddof=1))
    return Effect(mean, spread, spread / math.sqrt(pairs), pairs - 1)


def unpaired(base: Floats, patched: Floats) -> Effect:
    """Return the effect of boots that were not run back to back (Welch: each side has its own spread)."""
    mean = float(patched.mean() - base.mean())
    if len(base) < 2 or len(patched) < 2:
        return Effect(mean)
    spreads = float(base.var(ddof=1)), float(patched.var(ddof=1))
    error = math.sqrt(spreads[0] / len(base) + spreads[1] / len(patched))
    freedom = float(len(base) + len(patched) - 2)
    if error > 0:
        with warnings.catch_warnings():  # of boots that are alike to the last digits
            warnings.simplefilter("ignore", RuntimeWarning)
            freedom = float(stats.ttest_ind(patched, base, equal_var=False).df)
    return Effect(mean, math.sqrt(sum(spreads)), error, freedom)


@dataclass(frozen=True)
class Judgement:
    """What is said of an effect. `low` and `high` are ratios, `confidence` is theirs; None where there is no interval.

    `share` is the part of the error that Holm's procedure left for this one: 1 / share of it.
    """

    effect: Effect
    share: int
    band: float
    word: Word
    low: float | None = None
    high: float | None = None
    confidence: float | None = None

    @property
    def ratio(self) -> float:
        """Patched over base."""
        return math.exp(self.effect.mean)

    @property
    def noise_floor(self) -> float | None:
        """By how much two boots of one kernel differ: one standard deviation, as a fraction."""
        return None if self.effect.spread is None else math.expm1(self.effect.spread)

    @property
    def smallest_visible(self) -> float | None:
        """The slowdown that 80 of 100 runs like this one would find; None when not even a hundredfold one."""
        return _smallest_visible(self.effect, self.share, self.band)


def judge(effects: Sequence[Effect], band: float = BAND) -> list[Judgement]:
    """Judge effects that stand or fall together; the error is that of all of them (Holm's procedure).

    The clearest effect gets 1 / n of the error; each one that differs leaves 1 / (n - 1) and so on to the next.
    """
    found: dict[int, Judgement] = {}
    share = sum(effect.error is not None for effect in effects)
    for index in sorted(range(len(effects)), key=lambda index: effects[index].p_value):
        found[index] = one = _judge(effects[index], max(share, 1), band)
        share -= one.word in ("faster", "slower")
    return [found[index] for index in range(len(effects))]


def _judge(effect: Effect, share: int, band: float) -> Judgement:
    if effect.error is None:
        return Judgement(effect, share, band, "no-verdict")
    reach = float(_reach(np.array(effect.error), effect.freedom, share, band))
    if reach > _ENDLESS:
        return Judgement(effect, share, band, "no-verdict")
    low, high = math.exp(effect.mean - reach), math.exp(effect.mean + reach)
    confidence = 1 - (NOISY_ERROR if _is_noisy(effect.error, effect.freedom, share, band) else LOOK_ERROR) / share
    word: Word = "no-verdict"
    if low > 1:
        word = "slower"
    elif high < 1:
        word = "faster"
    elif low > 1 - band and high < 1 + band:
        word = "same"
    return Judgement(effect, share, band, word, low, high, confidence)


@functools.cache
def _quantile(error: float, freedom: float) -> float:
    return float(stats.t.isf(error / 2, freedom))


def _is_noisy(error: Floats | float, freedom: float, share: int, band: float) -> NDArray[np.bool_]:
    return np.asarray(_quantile(LOOK_ERROR / share, freedom) * error > math.log1p(band) / 2)


def _reach(error: Floats, freedom: float, share: int, band: float) -> Floats:
    """Return half the width of the interval, in logarithms, for each standard error."""
    noisy = _is_noisy(error, freedom, share, band)
    quantile = np.where(noisy, _quantile(NOISY_ERROR / share, freedom), _quantile(LOOK_ERROR / share, freedom))
    return np.asarray(quantile * error)


@functools.cache
def _spreads(freedom: float) -> Floats:
    """Return 40 equally likely ratios of an estimated spread to the true one."""
    middles = (np.arange(40) + 0.5) / 40
    return np.asarray(np.sqrt(stats.chi2.ppf(middles, freedom) / freedom))


def _smallest_visible(effect: Effect, share: int, band: float) -> float | None:
    if not effect.error:
        return None if effect.error is None else 0.0
    seen = _spreads(effect.freedom)
    true = effect.error / seen[:, None]
    reach = _reach(true * seen[None, :], effect.freedom, share, band)

    def surplus(change: float) -> float:
        return float(special.ndtr((change - reach) / true).mean()) - _POWER_ASKED

    if surplus(_BLIND) < 0:
        return None
    return math.expm1(float(optimize.brentq(surplus, 0.0, _BLIND)))


def sign_flip(differences: Floats) -> float:
    """Return the exact p of pairs whose kernels could as well be swapped: it needs no bell curve, only symmetry.

    It cannot be smaller than 2 / 2**pairs: 6 pairs for 3 %. Above 16 pairs it is drawn from 65,536 swaps.
    """
    if len(differences) < 2:
        return 1.0
    found = stats.permutation_test(
        (differences,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        n_resamples=1 << 16,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)
