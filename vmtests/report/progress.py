"""What a run is doing right now: a live line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

#: A log gets no more than one line in this many seconds from one task.
_LOG_SECONDS = 20.0

Update = Callable[[str], None]


class Progress:
    """Says what happens on a stream, which need not be a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    @contextmanager
    def task(self, name: str) -> Iterator[Update]:
        """Show that `name` is going on; the function that is yielded says how far it is."""
        started = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(name) as status:
                yield lambda text: status.update(f"{name}: {text}")
        else:
            said = started

            def update(text: str) -> None:
                nonlocal said
                now = time.monotonic()
                if now - said >= _LOG_SECONDS:
                    said = now
                    self.say(f"  {name}: {text} ({now - started:.0f} s)")

            yield update
        spent = time.monotonic() - started
        if spent >= 1:
            self.say(f"  {name}: {spent:.1f} s")
