"""The user's terminal as the guest's: keys go there as they are typed, and the terminal is in the end as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import termios
import threading
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmtests.errors import KernelFailure, UsageError

if TYPE_CHECKING:
    import paramiko

    from vmtests.guest.death import Death

#: As in ssh, what leaves a guest that does not answer: typed at the beginning of a line.
LEAVE = b"~."
#: How long the guest may not take a key that was typed.
SECONDS = 60.0


@dataclass
class _Keys:
    """Looks for LEAVE in what is typed."""

    _line_begins: bool = True
    _held: bytes = b""
    left: bool = field(default=False, init=False)

    def take(self, typed: bytes) -> bytes:
        """Return what is for the guest; `left` says whether the user has typed LEAVE."""
        passed = bytearray()
        for key in (typed[place : place + 1] for place in range(len(typed))):
            held, self._held = self._held, b""
            if held and key == LEAVE[1:]:
                self.left = True
                break
            if not held and key == LEAVE[:1] and self._line_begins:
                self._held = key
                continue
            passed += held if key != held else b""  # twice stands for itself
            passed += key
            self._line_begins = key in b"\r\n"
        return bytes(passed)


@dataclass(frozen=True)
class Terminal:
    """A terminal, by the file descriptors that its keys come from and its screen is written to."""

    keys: int
    screen: int

    @classmethod
    def ours(cls) -> Terminal:
        """Return the one that we were started from.

        Raises:
            UsageError: there is none.
        """
        if not (os.isatty(0) and os.isatty(1)):
            raise UsageError(
                "a shell needs a terminal, and this is none: --exec CMD runs a command, --keep leaves the guest running"
            )
        return cls(0, 1)

    def size(self) -> tuple[int, int]:
        """Return columns and lines."""
        size = os.get_terminal_size(self.screen)
        return size.columns, size.lines

    @contextlib.contextmanager
    def raw(self) -> Iterator[None]:
        """Hand on every key, Ctrl-C too, and echo none."""
        before = termios.tcgetattr(self.keys)
        try:
            tty.setraw(self.keys)
            yield
        finally:
            with contextlib.suppress(termios.error):  # its window was closed
                termios.tcsetattr(self.keys, termios.TCSADRAIN, before)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.screen, data) :]


def interact(channel: paramiko.Channel, terminal: Terminal, death: Death) -> bool:
    """Connect the terminal with a shell in the guest until that ends or the user leaves; return whether it ended.

    Args:
        channel: the shell's, with a terminal of its own.
        terminal: the user's.
        death: of the guest.

    Raises:
        KernelFailure, HostFailure: the guest died, or takes no more keys.
    """
    channel.settimeout(SECONDS)
    keys, ended = _Keys(), False
    with terminal.raw(), _resized() as resized, _died(death) as died:
        sources: list[paramiko.Channel | socket.socket | int] = [channel, terminal.keys, resized, died]
        while not (keys.left or ended):
            ready, _, _ = select.select(sources, [], [])
            if died in ready:
                break
            if resized in ready:
                resized.recv(1 << 10)
                channel.resize_pty(*terminal.size())
            if channel in ready:
                data = channel.recv(1 << 16)
                ended = not data
                terminal.write(data)
            if terminal.keys in ready:
                typed = os.read(terminal.keys, 1 << 10)
                if not typed:  # its window was closed
                    break
                _send(channel, keys.take(typed))
    death.check("the guest died under the shell")
    return ended


def _send(channel: paramiko.Channel, keys: bytes) -> None:
    try:
        channel.sendall(keys)
    except TimeoutError:
        raise KernelFailure(f"the guest takes no more keys since {SECONDS:.0f} s") from None
    except OSError:
        return  # it has just closed the connection, which reading will tell


@contextlib.contextmanager
def _resized() -> Iterator[socket.socket]:
    """Yield a socket that can be read when the terminal has got another size."""
    reads, writes = socket.socketpair()
    with reads, writes:
        writes.setblocking(False)

        def note(_signal: int, _frame: object) -> None:
            with contextlib.suppress(BlockingIOError):
                writes.send(b"x")

        before = signal.signal(signal.SIGWINCH, note)
        try:
            yield reads
        finally:
            signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def _died(death: Death) -> Iterator[socket.socket]:
    """Yield a socket that can be read when the guest has died."""
    reads, writes = socket.socketpair()
    over = False

    def watch() -> None:
        with death.lock:
            death.condition.wait_for(lambda: over or death.cause is not None)
        writes.send(b"x")

    with reads, writes:
        thread = threading.Thread(target=watch, daemon=True, name="terminal")
        thread.start()
        try:
            yield reads
        finally:
            with death.lock:
                over = True
                death.condition.notify_all()
            thread.join()
