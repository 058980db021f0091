"""A shell in the guest on the user's terminal: keys, the window's size, and a terminal that is in the end as it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fake_boot import Booter, booting
from vmtests.errors import HostFailure, KernelFailure, UsageError
from vmtests.guest import Guest, Terminal
from vmtests.guest.terminal import _Keys


@dataclass
class User:
    """Who sits at the other end of a terminal, types and reads."""

    hand: int
    terminal: Terminal
    troubles: list[BaseException] = field(default_factory=list)

    def resizes(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.hand, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        os.kill(os.getpid(), signal.SIGWINCH)  # which the kernel sends for a terminal that controls us

    def types(self, keys: bytes) -> None:
        os.write(self.hand, keys)

    def sees(self, text: bytes) -> bytes:
        """Wait for a text on the screen and return all up to it."""
        seen, deadline = b"", time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < deadline, (text, seen)
            with contextlib.suppress(BlockingIOError):
                seen += os.read(self.hand, 1 << 10)
            time.sleep(0.01)
        return seen

    def mode(self) -> list[object]:
        return termios.tcgetattr(self.terminal.keys)


@pytest.fixture
def user() -> Iterator[User]:
    hand, screen = pty.openpty()
    os.set_blocking(hand, False)
    user = User(hand, Terminal(screen, screen))
    fcntl.ioctl(hand, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    yield user
    os.close(hand)
    os.close(screen)
    # Not where they come up: there the guest's death would explain them.
    assert user.troubles == []


@pytest.fixture
def booter(tmp_path: Path) -> Iterator[Booter]:
    with booting(tmp_path) as booter:
        yield booter


def at_the_shell(guest: Guest, user: User, does: Callable[[], None]) -> None:
    """Open a shell, let the user do something at it, and see that the terminal is afterwards as it was."""
    before, over = user.mode(), threading.Event()

    def sit() -> None:
        user.sees(b"$ ")
        try:
            assert user.mode() != before
            does()
            assert over.wait(30), "the shell does not end"
            assert user.mode() == before
        except BaseException as trouble:
            user.troubles.append(trouble)
            user.types(b"\r~.")

    sitting = threading.Thread(target=sit, daemon=True)
    sitting.start()
    try:
        guest.interact(user.terminal)
    finally:
        over.set()
        sitting.join(60)


def test_keys_and_the_windows_size(booter: Booter, user: User) -> None:
    """Ctrl-C is the guest's, and so is every other key; the size follows the window."""

    def does() -> None:
        user.types(b"stty size\r")
        user.sees(b"33 101")
        user.resizes(60, 20)
        user.types(b"until [ \"$(stty size)\" = '20 60' ]; do :; done; echo now $((6 * 7))\r")
        user.sees(b"now 42")
        user.types(b"sleep 60\r")
        user.sees(b"sleep 60")
        user.types(b"\x03")
        user.types(b"echo again $((2 * 4))\r")
        user.sees(b"again 8")
        user.types(b"exit\r")

    with booter() as guest:
        at_the_shell(guest, user, does)
        assert guest.run("echo still").stdout == "still\n"


def test_leaving_a_shell_that_does_not_answer(booter: Booter, user: User) -> None:
    def does() -> None:
        user.types(b"sleep 60\r")
        user.sees(b"sleep 60")
        user.types(b"\r~.")

    with booter() as guest:
        at_the_shell(guest, user, does)


def test_a_guest_that_dies_under_the_shell(booter: Booter, user: User) -> None:
    with pytest.raises(KernelFailure, match="Kernel panic"), booter() as guest:
        at_the_shell(guest, user, lambda: guest.monitor.execute("inject-nmi"))


def test_qemu_that_dies_under_the_shell(booter: Booter, user: User) -> None:
    with pytest.raises(HostFailure, match="QEMU ended on SIGKILL"), booter() as guest:
        at_the_shell(guest, user, lambda: os.kill(guest.pid, signal.SIGKILL))


def test_a_connection_that_breaks(booter: Booter, user: User) -> None:
    """It is no shell that ended well."""

    def does() -> None:
        with pytest.raises(KernelFailure):
            guest.run("hang up")

    with pytest.raises(KernelFailure, match="the shell in the guest: .* has closed the connection"), booter() as guest:
        at_the_shell(guest, user, does)


def test_sigterm_restores_the_terminal(booter: Booter, user: User) -> None:
    def end(_signal: int, _frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit), booter() as guest:
            at_the_shell(guest, user, lambda: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("typed", "passed", "left"),
    [
        (b"~.", b"", True),
        (b"ls ~.", b"ls ~.", False),
        (b"ls\r~.", b"ls\r", True),
        (b"~ls", b"~ls", False),
        (b"~~.", b"~.", False),
        (b"\r~\r~.", b"\r~\r", True),
    ],
)
def test_what_leaves(typed: bytes, passed: bytes, left: bool) -> None:
    """As in ssh; and it does not matter how the keys come in pieces."""
    whole, single = _Keys(), _Keys()
    assert (whole.take(typed), whole.left) == (passed, left)
    assert b"".join(single.take(typed[place : place + 1]) for place in range(len(typed))) == passed
    assert single.left == left


def test_no_terminal() -> None:
    """pytest's stdin is none."""
    with pytest.raises(UsageError, match="a shell needs a terminal.*--exec CMD"):
        Terminal.ours()


def test_output_of_a_command_goes_on_as_it_comes(booter: Booter) -> None:
    got: list[tuple[bool, bytes]] = []

    def take(error: bool, data: bytes) -> None:
        got.append((error, data))

    with booter() as guest:
        assert guest.stream("echo out; echo err >&2; exit 7", take, seconds=5) == 7
        assert sorted(got) == [(False, b"out\n"), (True, b"err\n")]


def test_a_command_that_takes_too_long(booter: Booter) -> None:
    with pytest.raises(KernelFailure, match="not done within 0.3 s"), booter() as guest:
        guest.stream("sleep 60", lambda *_: None, seconds=0.3)
