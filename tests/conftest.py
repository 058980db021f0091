"""What the framework's own tests share."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Let SIGINT interrupt: a shell's background jobs, as a CI may start us, ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
