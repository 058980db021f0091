"""Which guests of a run are left running when --keep was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmtests.guest import Keeper, Kept, kept


class Keeping:
    """Keeps the guests of all tests that fail, and of those that pass the last one.

    Args:
        failures: the tests that have failed so far; it grows.
        tell: told of each guest that is kept.
    """

    def __init__(self, failures: Sequence[str], tell: Callable[[str], None]) -> None:
        self._failures = failures
        self._tell = tell
        self._passed: Kept | None = None
        #: Those that are left running.
        self.guests: list[Kept] = []

    def take(self, names: Sequence[str]) -> None:
        """Take over the guests that a worker of this run has left."""
        self.guests += [guest for guest in kept.find_all() if guest.name in names]

    def keeper(self) -> Keeper:
        """Return what decides on the next guest."""
        before = len(self._failures)
        passed = False

        def wanted(error: BaseException | None) -> str:
            nonlocal passed
            # A fixture's context does not see the test's failure, which has been noted by then.
            passed = error is None and len(self._failures) == before
            if passed:
                return "the last test that passed"
            return self._failures[-1] if error is None else f"{type(error).__name__}: {error}".splitlines()[0]

        def note(guest: Kept) -> None:
            self._tell(f"  {guest.kernel.name}: kept as {guest.name}")
            if passed:
                if self._passed is not None:
                    kept.end(self._passed)
                    self.guests.remove(self._passed)
                self._passed = guest
            self.guests.append(guest)

        return Keeper(wanted, note)
