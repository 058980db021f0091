"""Commands in the guest over SSH: pinned host key, a deadline for each, nothing lost, ended at once when it dies."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import logging
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import paramiko

from vmtests.errors import HostFailure, KernelFailure, VmtestsError, printable
from vmtests.guest.death import Death
from vmtests.guest.keys import KIND, Keys
from vmtests.guest.log import CappedLog
from vmtests.guest.terminal import Terminal, interact

USER = "root"
#: How often to log in. Dropbear hangs up on whoever takes longer than 5 minutes, and while a guest under icount is idle
#: its clock jumps: on a busy host that much of its time may pass between two of our packets.
ATTEMPTS = 5
#: How long logging in may take on real hardware.
LOGIN_SECONDS = 20.0
#: Sent now and then, so that a connection that has died on the way ends.
KEEPALIVE_SECONDS = 10
#: No honest server sends longer packets (PACKET_MAX_SIZE in OpenSSH's packet.c; dropbear's are shorter).
PACKET_BYTES = 256 << 10
#: The memory that the output of one command may take.
OUTPUT_BYTES = 64 << 20
#: A longer line is cut for the callback.
LINE_CHARACTERS = 1 << 16
#: dropbear refuses a longer command (MAX_CMD_LEN in its sysoptions.h).
COMMAND_BYTES = 9000
#: Shown of a failed command's output.
SHOWN_CHARACTERS = 8192
#: Shown of a command, or of what is wrong with the server.
SHORT_CHARACTERS = 80

# paramiko logs what it raises as well, raw as the server has said it: that must reach neither the terminal nor
# pytest's report of what was logged.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Result:
    """What a command did; `status` is -1 when a signal ended it."""

    status: int
    stdout: str
    stderr: str
    seconds: float


class _Socket(socket.socket):
    """Refuses to wait for a packet so long that it could only fill the memory: paramiko asks for all of one at once."""

    def recv(self, count: int, flags: int = 0, /) -> bytes:
        if count > PACKET_BYTES:
            raise paramiko.SSHException(f"the server announces a packet of {count} bytes")
        return super().recv(count, flags)


class _Session:
    """One command's channel, read by two threads; the caller takes what they have read."""

    def __init__(self, channel: paramiko.Channel, stdin: bytes | None, death: Death) -> None:
        self.status: int | None = None
        self._channel = channel
        self._death = death
        self._came: list[tuple[bool, bytes]] = []
        self._bytes = 0
        self._open = 2
        works: list[Callable[[], None]] = [
            lambda: self._read(channel.recv, error=False),
            lambda: self._read(channel.recv_stderr, error=True),
        ]
        if stdin is not None:
            # In a thread too, as the command may print before it has read all.
            works.append(lambda: self._feed(stdin))
        for work in works:
            threading.Thread(target=work, daemon=True, name="session").start()

    def take(self) -> list[tuple[bool, bytes]] | None:
        """Return what has come since the last time as (is it stderr, bytes), [] at the end; None: nothing yet."""
        came, self._came = self._came, []
        return came if came or self._open == 0 else None

    def _read(self, receive: Callable[[int], bytes], *, error: bool) -> None:
        while data := receive(1 << 16):
            with self._death.lock:
                self._came.append((error, data))
                self._bytes += len(data)
                self._death.condition.notify_all()
                if self._bytes > OUTPUT_BYTES:
                    return  # whoever takes it gives up, too
        # Blocks until the server has sent the status or the channel is closed.
        status = self._channel.recv_exit_status()
        with self._death.lock:
            self.status = status
            self._open -= 1
            self._death.condition.notify_all()

    def _feed(self, data: bytes) -> None:
        # A command that ends without having read everything closes the channel under us.
        with contextlib.suppress(OSError, EOFError):
            self._channel.sendall(data)
            self._channel.shutdown_write()


class _Lines:
    """Cuts a stream of bytes into lines for a callback."""

    def __init__(self, callback: Callable[[str], None]) -> None:
        self._callback = callback
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def take(self, data: bytes, *, final: bool = False) -> None:
        *lines, rest = (self._rest + self._decoder.decode(data, final)).split("\n")
        if len(rest) > LINE_CHARACTERS:  # a line that never ends would be copied again and again
            lines.append(rest)
            rest = ""
        self._rest = rest
        for line in lines:
            self._callback(line)
        if final and self._rest:
            self._callback(self._rest)


class Shell:
    """A connection to the guest's SSH server; a command is a session of its own on it.

    Args:
        port: where the guest's port 22 is on 127.0.0.1.
        keys: the guest's.
        log: takes the commands and their output.
        death: its report ends every call.
        patience: what deadlines are multiplied by.
    """

    def __init__(self, port: int, keys: Keys, log: CappedLog, death: Death, patience: float) -> None:
        self._log = log
        self._death = death
        self._patience = patience
        seconds = LOGIN_SECONDS * patience
        attempts = itertools.count(1)
        while not self._logged_in(port, keys, seconds, last=next(attempts) == ATTEMPTS):
            self.close()

    def _logged_in(self, port: int, keys: Keys, seconds: float, *, last: bool) -> bool:
        """Log in and return True, or False when the server has hung up without a word; on the last attempt raise."""
        self._client = paramiko.SSHClient()
        self._client.get_host_keys().add(f"[127.0.0.1]:{port}", KIND, keys.pinned())
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        self._socket = _Socket()
        death = self._death
        try:
            death.call(lambda: self._connect(port, keys, seconds), seconds, "logging in to the guest")
        except (paramiko.SSHException, OSError, EOFError) as error:
            hung_up = isinstance(error, EOFError | ConnectionResetError)
            if hung_up and death.cause is None and not last:
                return False
            self.close()
            death.settle()
            death.check("logging in to the guest")
            raise KernelFailure(
                f"logging in to the guest failed: {'the server hangs up' if hung_up else _short(str(error))}",
                output=death.tail(),
                evidence=death.evidence,
            ) from error
        except BaseException:
            self.close()
            raise
        return True

    def _connect(self, port: int, keys: Keys, seconds: float) -> None:
        self._socket.settimeout(seconds)
        self._socket.connect(("127.0.0.1", port))
        self._client.connect(
            "127.0.0.1",
            port,
            USER,
            sock=self._socket,
            pkey=keys.identity(),
            look_for_keys=False,
            allow_agent=False,
            timeout=seconds,
            banner_timeout=seconds,
            auth_timeout=seconds,
            channel_timeout=seconds,
        )
        transport = self._client.get_transport()
        assert transport is not None
        transport.set_keepalive(KEEPALIVE_SECONDS)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Send nothing of ourselves while the context lasts, so that a guest that counts does not count our packets."""
        transport = self._client.get_transport()
        assert transport is not None
        transport.set_keepalive(0)
        try:
            yield
        finally:
            transport.set_keepalive(KEEPALIVE_SECONDS)

    def close(self) -> None:
        # Not by paramiko's own close(), which waits for its thread for ever, nor with a farewell, which a dead guest
        # does not answer: the end of the socket ends the thread.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if (transport := self._client.get_transport()) is not None:
            transport.join(2)
        self._socket.close()

    def run(
        self,
        command: Sequence[str] | str,
        *,
        seconds: float,
        check: bool = True,
        line: Callable[[str], None] | None = None,
        stdin: bytes | None = None,
    ) -> Result:
        """Run a command to its end; see Guest.run."""
        out, err, status, took = self._run(command, seconds, line, stdin)
        result = Result(status, out.decode(errors="replace"), err.decode(errors="replace"), took)
        if check and status != 0:
            raise self._failed(command, status, result.stdout + result.stderr)
        return result

    def output(self, command: Sequence[str] | str, *, seconds: float, stdin: bytes | None = None) -> bytes:
        """Run a command and return its output as it is."""
        out, err, status, _ = self._run(command, seconds, None, stdin)
        if status != 0:
            raise self._failed(command, status, err.decode(errors="replace"))
        return out

    def stream(self, command: str, take: Callable[[bool, bytes], None], *, seconds: float) -> int:
        """Run a command and return its status, -1 for a signal; `take` gets its output as it comes, if it is stderr."""
        with self._begun(command, None, seconds) as (session, start, what):
            while came := self._death.wait(session.take, seconds * self._patience, what, since=start):
                for error, data in came:
                    take(error, data)
            return self._status(session, what)

    def interact(self, terminal: Terminal) -> None:
        """Open a login shell on the user's terminal until the user leaves it; see terminal.interact()."""
        what, seconds = "opening a shell in the guest", 20 * self._patience
        columns, lines = terminal.size()
        transport = self._client.get_transport()
        assert transport is not None

        def start() -> paramiko.Channel:
            channel = transport.open_session(timeout=seconds)
            channel.get_pty(os.environ.get("TERM", "vt100"), columns, lines)
            channel.invoke_shell()
            return channel

        try:
            channel = self._death.call(start, seconds, what)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(what) from error
        try:
            if interact(channel, terminal, self._death) and channel.recv_exit_status() == -1:
                self._require_connection("the shell in the guest")
        finally:
            threading.Thread(target=_hang_up, args=(channel,), daemon=True, name="hang-up").start()

    def _failed(self, command: Sequence[str] | str, status: int, output: str) -> KernelFailure:
        return KernelFailure(
            "a command failed in the guest" + (": a signal ended it" if status == -1 else ""),
            command=(command,) if isinstance(command, str) else command,
            status=status,
            output=output[-SHOWN_CHARACTERS:],
            evidence=(*self._death.evidence, self._log.path),
        )

    def _run(
        self, command: Sequence[str] | str, seconds: float, line: Callable[[str], None] | None, stdin: bytes | None
    ) -> tuple[bytes, bytes, int, float]:
        text = command if isinstance(command, str) else shlex.join(command)
        with self._begun(text, stdin, seconds) as (session, start, what):
            out, err, status = self._drain(session, line, start, seconds * self._patience, what)
        took = time.monotonic() - start
        self._log.write(f"[status {status}, {took:.3f} s]\n".encode())
        return out, err, status, took

    @contextlib.contextmanager
    def _begun(self, text: str, stdin: bytes | None, seconds: float) -> Iterator[tuple[_Session, float, str]]:
        """Start a command and yield its session, when it began, and what to call it; hang up if the body fails."""
        if len(text.encode()) > COMMAND_BYTES:
            raise ValueError(f"a command of {len(text)} characters is longer than the guest's SSH server takes")
        self._death.check("the guest is dead")
        what = f"running `{_short(text)}` in the guest"
        start = time.monotonic()
        self._log.write(f"$ {text}\n".encode())
        channel = self._open(text, stdin, seconds * self._patience, what)
        try:
            yield _Session(channel, stdin, self._death), start, what
        except BaseException:
            # In a thread, as whatever takes paramiko's locks: a Ctrl-C in our own would leave them taken.
            threading.Thread(target=_hang_up, args=(channel,), daemon=True, name="hang-up").start()
            raise

    def _open(self, text: str, stdin: bytes | None, seconds: float, what: str) -> paramiko.Channel:
        transport = self._client.get_transport()
        assert transport is not None

        def start() -> paramiko.Channel:
            channel = transport.open_session(timeout=seconds)
            channel.exec_command(text)
            if stdin is None:
                channel.shutdown_write()
            return channel

        try:
            return self._death.call(start, seconds, what)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(what) from error

    def _drain(
        self, session: _Session, line: Callable[[str], None] | None, start: float, seconds: float, what: str
    ) -> tuple[bytes, bytes, int]:
        """Take the output until the command's end, the guest's death or the deadline."""
        out, err = bytearray(), bytearray()
        lines = _Lines(line) if line is not None else None
        while came := self._death.wait(session.take, seconds, what, since=start):
            for error, data in came:
                self._log.write(data)
                (err if error else out).extend(data)
                if lines is not None and not error:
                    lines.take(data)
            if len(out) + len(err) > OUTPUT_BYTES:
                raise HostFailure(
                    f"{what}: it printed more than {OUTPUT_BYTES >> 20} MiB",
                    evidence=(*self._death.evidence, self._log.path),
                )
        if lines is not None:
            lines.take(b"", final=True)
        return bytes(out), bytes(err), self._status(session, what)

    def _status(self, session: _Session, what: str) -> int:
        """Return the status of a command that has ended, -1 if a signal did it."""
        assert session.status is not None
        if session.status == -1:
            self._require_connection(what)
        return session.status

    def _require_connection(self, what: str) -> None:
        """Tell, where there is no status, a signal that ended the command from a connection that broke."""
        transport = self._client.get_transport()
        assert transport is not None
        transport.join(0.5)  # paramiko's thread is ending then
        if not transport.is_active():
            raise self._lost(what)

    def _lost(self, what: str) -> VmtestsError:
        """Return the failure for a broken connection, after a short wait for an oops that explains it."""
        self._death.settle()
        if self._death.cause is not None:
            return self._death.failure(what)
        return KernelFailure(
            f"{what}: the guest's SSH server has closed the connection",
            output=self._death.tail(),
            evidence=self._death.evidence,
        )


def _hang_up(channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError):  # the connection may be gone
        channel.close()


def _short(text: str) -> str:
    first, *more = printable(text).strip().splitlines() or [""]
    return first[:SHORT_CHARACTERS] + ("..." if more or len(first) > SHORT_CHARACTERS else "")
