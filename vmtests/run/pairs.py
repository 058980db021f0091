"""The pairs of boots of a run: whether the next one is still needed, and why the last one was the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vmtests.host import kvm
from vmtests.record import BindEntry
from vmtests.run.options import Options
from vmtests.timing import sequential
from vmtests.timing.effect import BAND


def looks(options: Options, clock: str) -> tuple[int, ...]:
    """Return after how many pairs the run looks whether its verdict is clear; the last number ends it."""
    if options.boots != "auto":
        return (int(options.boots),)
    if clock == "icount" or len(options.kernel_names()) == 1:
        return sequential.COUNT_LOOKS
    return sequential.LOOKS


def planned(options: Options) -> int:
    """Return how many pairs there can be, as far as is known before anything has run."""
    if options.counts:
        return looks(options, "icount")[-1]
    if options.clock == "auto" and (options.accel == "tcg" or kvm.works(options.cpu_model) is False):
        return looks(options, "icount")[-1]
    return looks(options, "wall")[-1]


def planned_for_workers(options: Options) -> int:
    """Return the same for workers side by side, who cannot look at each other's boots: up to the first look."""
    most = planned(options)
    return min(most, sequential.LOOKS[0]) if options.boots == "auto" else most


@dataclass
class Pairs:
    """Asked before each boot. A pair that was begun is ended, whatever the budget says.

    Attributes:
        begun: how many pairs have been begun, those that lost a boot too.
        ended: why no further pair was needed; None while more are to come.
    """

    options: Options
    now: Callable[[], float] = time.monotonic
    begun: int = field(default=0, init=False)
    ended: str | None = field(default=None, init=False)
    _starts: list[float] = field(default_factory=list, init=False)

    def needed(self, boot: int, clock: str, binds: Sequence[BindEntry]) -> bool:
        """Return whether the pair with this number runs.

        Args:
            boot: the number of the pair.
            clock: the run's.
            binds: all so far.

        Raises:
            UsageError: the binds cannot be compared.
        """
        if boot < self.begun:
            return True
        if self.ended is None and self.begun:
            limit = self.options.max_regression
            decision = sequential.decide(
                binds,
                self.options.kernel_names(),
                clock,
                self.begun,
                looks=looks(self.options, clock),
                limit=limit,
                band=BAND if limit is None else limit,
                out_of_time=self._out_of_time(),
            )
            self.ended = decision.reason if decision.stop else None
        if self.ended is not None:
            return False
        self.begun += 1
        self._starts.append(self.now())
        return True

    def _out_of_time(self) -> bool:
        """Whether a pair as long as the longest so far would end behind the budget; builds do not count."""
        if self.options.budget is None:
            return False
        edges = [*self._starts, self.now()]
        longest = max(after - before for before, after in pairwise(edges))
        return edges[-1] - edges[0] + longest > self.options.budget
