"""Ctrl-C and SIGTERM: the first one ends a run, a second Ctrl-C does not keep its guests from being ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from vmtests.errors import ExitCode

if TYPE_CHECKING:
    import pytest


def unwind_on_sigterm() -> None:
    """Let SIGTERM end this process in order, as Ctrl-C does, and with an exit code of its own."""

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(int(ExitCode.TERMINATED))

    signal.signal(signal.SIGTERM, terminate)


class ToldApart:
    """A plugin of pytest that tells Ctrl-C from SIGTERM, which unwinds likewise, and both from other interruptions.

    Attributes:
        code: the exit code that an interruption means; None while there was none.
    """

    def __init__(self) -> None:
        self.code: ExitCode | None = None
        signal.signal(signal.SIGTERM, self._terminate)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note it, unless it is pytest's own Session.Interrupted, as when modules cannot be collected."""
        if type(excinfo.value) is KeyboardInterrupt:
            self.code = self.code or ExitCode.INTERRUPTED

    def _terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self.code = ExitCode.TERMINATED
        raise KeyboardInterrupt("SIGTERM")


_SAID = b"\nvmtests: the guests are being ended, which takes some seconds\n"


@contextmanager
def only_the_first() -> Iterator[None]:
    """Let one Ctrl-C interrupt the block; those after it, while all is being ended, are answered by a line.

    Every wait on the way out has a deadline. Where SIGINT is ignored, as in a shell's background jobs, it stays so.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os.write(2, _SAID))
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
