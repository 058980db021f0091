"""When to stop booting: `--boots auto` looks at the pairs a few times, and ends when the verdict is clear.

Each look is an opportunity to be wrong, so looks are few and fixed beforehand, and `effect` holds each one to more
than the usual confidence. A run that its budget ends early looks once more, where it stands, instead of going on to the
looks that were left: never more often than planned. Nor does it go on when a kernel loses boot after boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmtests.errors import ExitCode
from vmtests.record import BindEntry
from vmtests.timing.effect import BAND
from vmtests.timing.samples import family, whole_pairs
from vmtests.timing.verdict import gate_interval, judge

#: After how many pairs of boots a run looks, times being noisy.
LOOKS = (6, 12, 20)
#: The same for counts of instructions.
COUNT_LOOKS = (1,)
#: So many pairs in a row that lost a boot end the run: one may be bad luck, and is dropped.
LOST = 3


@dataclass(frozen=True)
class Decision:
    """Whether to stop and why; `until` is the number of pairs to go on to, the present one when it is time to stop."""

    stop: bool
    reason: str
    until: int


def decide(
    binds: Sequence[BindEntry],
    kernels: Sequence[str],
    clock: str,
    done: int,
    *,
    looks: Sequence[int] = LOOKS,
    limit: float | None = None,
    band: float = BAND,
    out_of_time: bool = False,
) -> Decision:
    """Decide after a pair of boots whether the run goes on.

    Args:
        binds: all so far.
        kernels: the base first.
        clock: the run's.
        done: how many pairs were begun and ended, dead ones too.
        looks: after how many pairs to look; the last one ends the run. One number for a fixed plan.
        limit: the slowdown that a gate allows; the verdict is then clear when the gate's is.
        band: as for the verdict.
        out_of_time: the budget has ended.

    Raises:
        UsageError: the binds cannot be compared.
    """
    if done >= looks[-1]:
        return Decision(True, f"all {done} pairs have run", done)
    if out_of_time:
        return Decision(True, f"the budget ended after {done} pairs", done)
    if done >= LOST and not whole_pairs(binds, kernels) & set(range(done - LOST, done)):
        return Decision(True, f"the last {LOST} pairs have lost a boot each, so more would not help", done)
    following = next(look for look in looks if look > done)
    if done not in looks:
        return Decision(False, f"the next look is after {following} pairs", following)
    pairs = family(binds, kernels, clock, "rebind")
    wanted = len({bind.namespace for bind in binds}) * (len(kernels) - 1)
    clear = [
        one.word != "no-verdict" if limit is None else gate_interval(one.low, one.high, limit) != ExitCode.NO_VERDICT
        for one in judge(pairs, band)
    ]
    if len(clear) == wanted and all(clear):
        return Decision(True, f"the verdict is clear after {done} pairs", done)
    return Decision(False, f"no clear verdict after {done} pairs, the next look is after {following}", following)
