"""Who is believed when several witnesses report a death, and how soon a wait ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from vmtests.errors import HostFailure, KernelFailure, VmtestsError
from vmtests.guest.death import Cause, Death, Witness

OOPS = Cause(Witness.CONSOLE, "BUG: kernel NULL pointer dereference", by_kernel=True, kind="BUG")
PANIC = Cause(Witness.PANIC_EVENT, "the kernel panicked", by_kernel=True)
RESET = Cause(Witness.STOP_EVENT, "the guest reset itself", by_kernel=True)
EXIT = Cause(Witness.EXIT, "QEMU ended with status 1", by_kernel=False, status=1, output="its stderr")


def later(seconds: float, work: Callable[[], object]) -> None:
    threading.Timer(seconds, work).start()


def never() -> None:
    return None


def failed(death: Death, seconds: float = 30, silence: float | None = None) -> VmtestsError:
    with pytest.raises(VmtestsError) as caught:
        death.wait(never, seconds, "waiting", silence=silence)
    return caught.value


def test_ready_at_once_and_later() -> None:
    death = Death()
    assert death.wait(lambda: "there", 0, "waiting") == "there"
    seen: list[int] = []

    def appear() -> None:
        seen.append(1)
        death.wake()

    later(0.05, appear)
    start = time.monotonic()
    assert death.wait(lambda: seen or None, 60, "waiting") == [1]
    assert time.monotonic() - start < 30


def test_death_ends_the_wait_at_once() -> None:
    death = Death()
    later(0.05, lambda: death.report(EXIT))
    start = time.monotonic()
    failure = failed(death, 60)
    assert time.monotonic() - start < 30
    assert isinstance(failure, HostFailure)
    assert failure.message == "waiting: QEMU ended with status 1"
    assert (failure.status, failure.output) == (1, "its stderr")


@pytest.mark.parametrize("lesser", [PANIC, RESET, EXIT])
def test_oops_wins(lesser: Cause) -> None:
    death = Death()
    death.report(lesser)
    death.report(OOPS)
    failure = failed(death)
    assert isinstance(failure, KernelFailure)
    assert failure.message == "waiting: BUG: kernel NULL pointer dereference"


@pytest.mark.parametrize("lesser", [PANIC, RESET])
def test_late_oops_wins(lesser: Cause) -> None:
    death = Death()
    death.report(lesser)
    later(0.3, lambda: death.report(OOPS))
    assert "NULL pointer" in failed(death).message


def test_event_wins_over_exit() -> None:
    death = Death()
    death.report(EXIT)
    death.report(PANIC)
    assert "panicked" in failed(death).message


def test_waits_for_the_end_of_the_report() -> None:
    death = Death()
    said = ["BUG: first line"]
    death.tail = lambda: "\n".join(said)
    death.heard()
    death.report(OOPS)

    def say_more() -> None:
        said.append("Call Trace:")
        death.heard()

    later(0.1, say_more)
    assert failed(death).output.splitlines() == ["BUG: first line", "Call Trace:"]


def test_deadline_of_a_guest_that_spoke() -> None:
    death = Death()
    death.heard()
    death.tail = lambda: "its last words"
    death.interrogate = lambda: "its CPUs were at RIP ffffffff81000000"
    failure = failed(death, 0.1)
    assert isinstance(failure, KernelFailure)
    assert failure.message == "waiting: not done within 0.1 s; its CPUs were at RIP ffffffff81000000"
    assert failure.output == "its last words"


def test_interrogation_may_fail() -> None:
    death = Death()
    death.heard()

    def interrogate() -> str:
        raise HostFailure("no answer")

    death.interrogate = interrogate
    assert failed(death, 0.1).message == "waiting: not done within 0.1 s"


def test_silence() -> None:
    death = Death()
    later(0.2, death.heard)
    start = time.monotonic()
    failure = failed(death, 60, silence=1.0)
    assert 1.1 < time.monotonic() - start < 30
    assert "said nothing for 1 s" in failure.message


def test_guest_that_never_spoke() -> None:
    failure = failed(Death(), 0.1)
    assert isinstance(failure, HostFailure)
    assert "not done within 0.1 s, nor ever before: either this is no kernel" in failure.message


def test_examined_at_the_deadline() -> None:
    death = Death()
    death.heard()
    death.examine = lambda: Cause(Witness.EXIT, "QEMU is stopped by a signal", by_kernel=False)
    failure = failed(death, 0.1)
    assert isinstance(failure, HostFailure)
    assert "stopped by a signal" in failure.message


def test_outlive_ends_with_qemu_only() -> None:
    death = Death()
    death.report(OOPS)
    assert death.wait(lambda: 1, 1, "waiting", outlive=True) == 1
    later(0.1, lambda: death.report(EXIT))
    with pytest.raises(KernelFailure, match="NULL pointer"):
        death.wait(never, 5, "waiting", outlive=True)


def test_call() -> None:
    death = Death()
    assert death.call(lambda: 42, 5, "calling") == 42
    with pytest.raises(ZeroDivisionError):
        death.call(lambda: 1 // 0, 5, "calling")
    blocked = threading.Event()
    later(0.05, lambda: death.report(EXIT))
    with pytest.raises(HostFailure, match="QEMU ended"):
        death.call(blocked.wait, 5, "calling")
    blocked.set()


def test_check() -> None:
    death = Death()
    death.check()
    death.report(EXIT)
    with pytest.raises(HostFailure, match="the guest is dead: QEMU ended"):
        death.check()


def test_what_no_witness_reports_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that is stopped and stays so, long before the deadline; one that goes on again is none."""
    monkeypatch.setattr("vmtests.guest.death.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("vmtests.guest.death.HELD_SECONDS", 0.2)
    stopped = Cause(Witness.EXIT, "QEMU is stopped", by_kernel=False)
    death = Death()
    death.examine = lambda: stopped
    start = time.monotonic()
    failure = failed(death)
    assert isinstance(failure, HostFailure)
    assert failure.message == "waiting: QEMU is stopped"
    assert 0.2 < time.monotonic() - start < 10

    death, looks = Death(), iter(range(1000))
    death.examine = lambda: stopped if next(looks) % 4 else None
    start = time.monotonic()
    assert death.wait(lambda: "there" if time.monotonic() > start + 1 else None, 60, "waiting") == "there"
    assert next(looks) > 8


def test_a_guest_without_a_pulse_hangs() -> None:
    """It is asked where, as one whose deadline has passed; and who asks QEMU meanwhile is not disturbed."""
    silent: list[float] = []

    def feel(seconds: float) -> str:
        silent.append(seconds)
        return "CPU 0 has taken no interrupt for 5 s" if len(silent) > 1 else ""

    death = Death()
    death.heard()
    death.pulse = feel
    death.interrogate = lambda: "its CPUs were at RIP 123"
    start = time.monotonic()
    failure = failed(death)
    assert isinstance(failure, KernelFailure)
    assert failure.message == "waiting: CPU 0 has taken no interrupt for 5 s; its CPUs were at RIP 123"
    assert time.monotonic() - start < 10
    assert silent[0] < silent[1]

    with pytest.raises(HostFailure, match="no answer in 1 s"):
        death.wait(never, 1, "asking QEMU", outlive=True)
    assert len(silent) == 2
