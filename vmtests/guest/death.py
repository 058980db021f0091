"""Why a guest is dead, and the one place where everybody who waits for it finds out.

Several witnesses report here: the console's text, QEMU's events, the end of QEMU's process. They race, so the causes
have an order: what the kernel says about itself beats a bare event, and an event beats the end of the process.
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vmtests.errors import HostFailure, KernelFailure, VmtestsError

T = TypeVar("T")

#: How long a death by a lesser witness waits for the kernel's own words (syzkaller's monitorExecution() does so too).
LATE_SECONDS = 1.0
#: How often a wait looks for what no witness reports, and how long that must have held.
LOOK_SECONDS = 0.5
HELD_SECONDS = 1.5
#: A console that has been quiet for so long has finished its report.
QUIET_SECONDS = 0.3


class Witness(enum.IntEnum):
    """Who reported a death; the smallest is believed."""

    CONSOLE = 0  # an oops, a panic, a lockup, in the kernel's own words
    PANIC_EVENT = 1  # pvpanic
    INTERNAL_ERROR = 2  # the accelerator cannot go on: KVM's internal error
    STOP_EVENT = 3  # the guest reset or powered itself off
    EXIT = 4  # QEMU's process has ended


@dataclass(frozen=True)
class Cause:
    """One witness's report.

    `by_kernel` says whose fault it is; `kind` is the class of the kernel's complaint (console.FATAL), if it is one;
    `status` and `output` belong to a process that ended.
    """

    witness: Witness
    message: str
    by_kernel: bool
    kind: str = ""
    status: int | None = None
    output: str = ""


class Death:
    """The condition that every wait for one guest shares.

    `lock` guards whatever the waits look at: hold it to change that, and call condition.notify_all() before letting go.
    """

    def __init__(self, evidence: Sequence[Path] = ()) -> None:
        # Taken by `with` on the lock itself: Condition's own __enter__ is Python code, which a Ctrl-C can leave with
        # the lock taken for ever.
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.evidence = tuple(evidence)
        #: The end of the console, for the messages; the Console sets it.
        self.tail: Callable[[], str] = lambda: ""
        #: Looks for a cause that no witness reports by itself.
        self.examine: Callable[[], Cause | None] = lambda: None
        #: Given for how long the guest has been silent, returns what shows that it hangs, "" if nothing does.
        self.pulse: Callable[[float], str] = lambda _: ""
        #: Makes a guest that hangs print where, if it still can, and returns what else is known about it.
        self.interrogate: Callable[[], str] = lambda: ""
        self._causes: list[Cause] = []
        self._heard: float | None = None
        self._suspected: float | None = None

    @property
    def cause(self) -> Cause | None:
        """The best known cause, None while the guest lives."""
        with self.lock:
            return min(self._causes, key=lambda cause: cause.witness, default=None)

    @property
    def spoken(self) -> bool:
        """Whether the guest has ever printed anything."""
        return self._heard is not None

    def report(self, cause: Cause) -> None:
        """Take a witness's report and wake everybody."""
        with self.lock:
            self._causes.append(cause)
            self.condition.notify_all()

    def heard(self) -> None:
        """Take notice that the console has said something."""
        with self.lock:
            self._heard = time.monotonic()
            self.condition.notify_all()

    def ended(self) -> bool:
        """Return whether QEMU's process has ended."""
        return any(cause.witness is Witness.EXIT for cause in self._causes)

    def check(self, what: str = "the guest is dead") -> None:
        """Raise the failure if the guest is dead."""
        if self.cause is not None:
            raise self.failure(what)

    def wait(
        self,
        ready: Callable[[], T | None],
        seconds: float,
        what: str,
        *,
        silence: float | None = None,
        since: float | None = None,
        outlive: bool = False,
    ) -> T:
        """Return what `ready` returns as soon as that is not None.

        Args:
            ready: called with the lock held, whenever something has happened.
            seconds: the deadline.
            what: what is being waited for, as the message names it: "waiting for the region".
            silence: the longest time in seconds that the console may say nothing.
            since: when the deadline began by time.monotonic(); now by default.
            outlive: a dead kernel does not end the wait, only QEMU's end does.

        Raises:
            KernelFailure, HostFailure: the guest died, or the deadline passed.
        """
        start = time.monotonic()
        deadline = (start if since is None else since) + seconds
        lost = ""
        with self.lock:
            while not lost:
                value = ready()
                if value is not None:
                    return value
                if self.ended() if outlive else self._causes:
                    break
                limit = deadline
                if silence is not None:
                    limit = min(limit, max(start, self._heard or start) + silence)
                if (left := limit - time.monotonic()) <= 0:
                    break
                if not self.condition.wait(min(left, LOOK_SECONDS)):
                    lost = self._look(start, outlive=outlive)
        if self.ended() if outlive else self._causes:
            raise self.failure(what)
        late = lost or _overdue(seconds, silence if limit < deadline else None, outlive=outlive)
        raise self._late(what, late, ask=not outlive)

    def call(self, function: Callable[[], T], seconds: float, what: str) -> T:
        """Run a blocking function in a thread and return its result, unless the guest dies or the deadline passes.

        The caller then has to end what the function blocks on.
        """
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        future.add_done_callback(self.wake)
        threading.Thread(target=work, daemon=True, name=what).start()
        return self.wait(lambda: future if future.done() else None, seconds, what).result()

    def wake(self, _: object = None) -> None:
        """Make every wait look again."""
        with self.lock:
            self.condition.notify_all()

    def _look(self, since: float, *, outlive: bool) -> str:
        """Look for what no witness reports; return what shows that the guest, silent `since` then, hangs.

        A cause that examine() finds is reported if it holds: a debugger stops QEMU for a moment, too.
        """
        cause, now = self.examine(), time.monotonic()
        if cause is None:
            self._suspected = None
        elif self._suspected is None:
            self._suspected = now
        elif now - self._suspected >= HELD_SECONDS:
            self.report(cause)
        return "" if outlive or cause is not None else self.pulse(now - max(since, self._heard or since))

    def _late(self, what: str, late: str, *, ask: bool) -> VmtestsError:
        """Return the failure for a deadline that has passed, or whatever else is `late`."""
        if (cause := self.examine()) is not None:
            self.report(cause)
        if self.cause is not None:
            return self.failure(what)
        if not ask:
            return HostFailure(f"{what}: {late}", output=self.tail(), evidence=self.evidence)
        if not self.spoken:
            return HostFailure(
                f"{what}: {late}, nor ever before: either this is no kernel for this machine with a console on the "
                "serial port, or the accelerator does not run it",
                evidence=self.evidence,
            )
        with contextlib.suppress(VmtestsError, OSError):
            late += "; " + self.interrogate()
        self.settle()
        return KernelFailure(f"{what}: {late}", output=self.tail(), evidence=self.evidence)

    def settle(self) -> None:
        """Wait briefly for the kernel's own words, and for the end of them."""
        deadline = time.monotonic() + LATE_SECONDS
        with self.lock:
            while (now := time.monotonic()) < deadline and not self.ended():
                until = deadline
                if (cause := self.cause) is not None and cause.witness is Witness.CONSOLE:
                    until = min(deadline, (self._heard or 0.0) + QUIET_SECONDS)
                    if now >= until:
                        return
                self.condition.wait(until - now)

    def failure(self, what: str) -> VmtestsError:
        """Return the failure for a guest that is dead, after a short wait for a late oops."""
        self.settle()
        cause = self.cause
        assert cause is not None
        return (KernelFailure if cause.by_kernel else HostFailure)(
            f"{what}: {cause.message}",
            status=cause.status,
            output=cause.output or self.tail(),
            evidence=self.evidence,
        )


def _overdue(seconds: float, silence: float | None, *, outlive: bool) -> str:
    """Return how a deadline is called that has passed, or a `silence` that was too long."""
    if silence is not None:
        return f"the console said nothing for {_text(silence)}"
    return f"{'no answer in' if outlive else 'not done within'} {_text(seconds)}"


def _text(seconds: float) -> str:
    return f"{round(seconds, 1):g} s"
