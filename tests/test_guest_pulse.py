"""When a CPU counts as lost: its interrupts off, and one waiting, at every look for a long time."""

from __future__ import annotations

import re

import pytest

from vmtests.guest.pulse import LOST_SECONDS, Pulse

OFF, ON = "00000046", "00000246"


class Guest:
    """Shows registers and local APICs as QEMU 7.2 does; its clock goes on by `step` with each look."""

    def __init__(self, *flags: str, waiting: bool = True) -> None:
        self.flags = list(flags)
        self.waiting = waiting
        self.now = 1000.0
        self.asked = 0

    def human(self, command: str, *, seconds: float) -> str:
        assert seconds < 30
        if command == "info registers -a":
            self.asked += 1
            return "\r\n".join(
                f"\r\nCPU#{cpu}\r\nRAX=0000000000000000 RBX=ff1100007ca167c0\r\n"
                f"RIP=ffffffff8103d840 RFL={flags} [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\nES =0000"
                for cpu, flags in enumerate(self.flags)
            )
        assert re.fullmatch(r"info lapic \d", command)
        return f"SPIV\t 0x000001ff\r\nISR\t (none)\r\nIRR\t {'236 ' if self.waiting else '(none)'}\r\n\r\nAPR 0x00"


def looks(guest: Guest, feel: Pulse, seconds: float, monkeypatch: pytest.MonkeyPatch, silent: float = 60) -> str:
    """Feel the pulse for so long, twice a second, and return the first complaint."""
    monkeypatch.setattr("vmtests.guest.pulse.time.monotonic", lambda: guest.now)
    for _ in range(int(2 * seconds)):
        guest.now += 0.5
        if said := feel(silent):
            return said
    return ""


def test_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(OFF)
    feel = Pulse(guest, patience=4)
    assert looks(guest, feel, 4 * LOST_SECONDS - 1, monkeypatch) == ""
    assert looks(guest, feel, 2, monkeypatch) == "CPU 0 has taken no interrupt for 20 s"


def test_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(ON, OFF)
    assert looks(guest, Pulse(guest, 1), 10, monkeypatch) == "CPU 1 has taken no interrupt for 5 s"


@pytest.mark.parametrize(("flags", "waiting"), [(ON, True), (OFF, False)], ids=["takes-them", "none-waits"])
def test_alive(flags: str, waiting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(flags, waiting=waiting)
    assert looks(guest, Pulse(guest, 1), 60, monkeypatch) == ""
    assert guest.asked > 100


def test_one_good_look_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(OFF)
    feel = Pulse(guest, 1)
    for _ in range(5):
        guest.flags = [OFF]
        assert looks(guest, feel, LOST_SECONDS - 1, monkeypatch) == ""
        guest.flags = [ON]
        assert looks(guest, feel, 0.5, monkeypatch) == ""


def test_what_nobody_looked_at_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(OFF)
    feel = Pulse(guest, 1)
    assert looks(guest, feel, 2, monkeypatch) == ""
    guest.now += 60
    assert looks(guest, feel, 2, monkeypatch) == ""


def test_a_guest_that_talks_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(OFF)
    assert looks(guest, Pulse(guest, 1), 60, monkeypatch, silent=0.1) == ""


def test_looks_no_more_often_than_need_be(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(ON)
    feel = Pulse(guest, 1)
    monkeypatch.setattr("vmtests.guest.pulse.time.monotonic", lambda: guest.now)
    for _ in range(100):
        guest.now += 0.01
        feel(60)
    assert guest.asked <= 2
