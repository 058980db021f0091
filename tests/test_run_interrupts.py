from __future__ import annotations

import os
import signal

import pytest

from vmtests.run.interrupts import only_the_first


def test_a_second_one_does_not_interrupt_what_ends_the_first(capfd: pytest.CaptureFixture[str]) -> None:
    ended = False
    with pytest.raises(KeyboardInterrupt), only_the_first():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            ended = True
    assert ended
    assert "the guests are being ended" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_it_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with only_the_first():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
