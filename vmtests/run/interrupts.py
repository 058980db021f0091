"""Ctrl-C: the first one ends a run, a second one does not keep its guests from being ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
