"""The gate: a night is green only if as many cells have passed as there should be, each with a record that says so.

avocado's exit code is 0 when all its tasks are skipped, as when none could start; so nobody asks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmtests import errors
from vmtests.errors import ExitCode
from vmtests.nightly import outcome
from vmtests.nightly.night import Attempt
from vmtests.nightly.outcome import Outcome

#: What the verdicts are called, in the order in which they are told.
_WORDS = {
    outcome.BUG: "ended by a bug of vmtests",
    outcome.LOST: "lost",
    outcome.HOST_FAILED: "not run to the end by this host",
    outcome.DOES_NOT_BUILD: "with a tree that does not build",
    outcome.KERNEL_FAILED: "failed by the kernel",
    outcome.NO_VERDICT: "without a verdict",
}


@dataclass(frozen=True)
class Gate:
    """What became of all cells; `retried` names those that this host failed at first."""

    outcomes: tuple[Outcome, ...]
    expected: int
    retried: tuple[str, ...]

    @property
    def passed(self) -> int:
        """How many cells have passed."""
        return sum(one.verdict == outcome.PASSED for one in self.outcomes)

    @property
    def open(self) -> bool:
        """Whether all that were expected have passed."""
        return self.passed == self.expected

    @property
    def exit_code(self) -> ExitCode:
        """The worst of the cells'; never 0 when one is missing."""
        code = errors.worst(one.exit_code for one in self.outcomes)
        return ExitCode.HOST_FAILED if code is ExitCode.PASSED and not self.open else code

    def __str__(self) -> str:
        counts = Counter(one.verdict for one in self.outcomes)
        parts = [f"{counts[verdict]} {words}" for verdict, words in _WORDS.items() if counts[verdict]]
        parts += [f"{len(self.retried)} at the second try"] if self.retried else []
        return ", ".join([f"{self.passed} of {self.expected} cells passed", *parts])


def gate(outcomes: Mapping[str, Outcome], attempts: Mapping[str, Sequence[Attempt]], expected: int) -> Gate:
    """Count the cells of a night.

    Args:
        outcomes: what became of each cell in the end.
        attempts: all attempts at each.
        expected: how many cells there should be.
    """
    retried = [
        name for name, tries in attempts.items() if outcomes[name].final and any(not one.outcome.final for one in tries)
    ]
    return Gate(tuple(outcomes.values()), expected, tuple(retried))
