"""An SSH server that runs its commands on the host, and shells on a terminal: the guest's, for tests without a VM."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from typing import IO, Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, MSG_CHANNEL_SUCCESS, OPEN_SUCCEEDED

Translate = Callable[[str], str | None]


def serve(connection: socket.socket, seed: bytes | None, authorized: str, translate: Translate) -> None:
    """Serve one client, in threads.

    Args:
        connection: the client's.
        seed: of the host key; None: a host key of another kind.
        authorized: the client's public key in base64.
        translate: returns what the shell is to run for a command, None for one that never ends.
    """
    transport = _Transport(connection)
    if seed is None:
        transport.add_server_key(paramiko.ECDSAKey.generate())
    else:
        key = Ed25519PrivateKey.from_private_bytes(seed)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        transport.add_server_key(paramiko.Ed25519Key(file_obj=io.StringIO(pem)))
    with contextlib.suppress(paramiko.SSHException, EOFError):  # a client that does not like the host key
        transport.start_server(server=_Server(transport, authorized, translate))


#: What a lying server says, again and again until the client hangs up.
LIES = {
    "endless-banner": b"SSH-2.0-" + b"x" * (1 << 16),
    "no-banner": b"\x1b]0;owned\x07 is no banner\r\n",
    "garbage": bytes(range(256)) * 256,
    "other-version": b"SSH-1.5-\x1b]0;owned\x07" + b"x" * (1 << 16) + b"\r\n",
    # The length in front is that of the first packet.
    "endless-packet": b"SSH-2.0-x\r\n" + (0x7FFFFFFC).to_bytes(4) + b"x" * (1 << 16),
    "silence": b"",
}


def lie(connection: socket.socket, kind: str) -> None:
    """Serve one client with lies, until it leaves."""
    with connection, contextlib.suppress(OSError):
        if not LIES[kind]:
            connection.recv(1 << 10)
            connection.recv(1)
        while LIES[kind]:
            connection.sendall(LIES[kind])


class _Transport(paramiko.Transport):
    """Starts a command only when the client has been told that it is: a short one would close the channel before."""

    begun: threading.Thread | None = None

    def _send_user_message(self, message: paramiko.Message) -> None:
        super()._send_user_message(message)  # type: ignore[misc]
        if message.asbytes()[0] == MSG_CHANNEL_SUCCESS and self.begun is not None:
            self.begun.start()
            self.begun = None


class _Server(paramiko.ServerInterface):
    def __init__(self, transport: _Transport, authorized: str, translate: Translate) -> None:
        self.transport = transport
        self.authorized = authorized
        self.translate = translate
        self.size: tuple[int, ...] = ()
        self.terminal = -1

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL if username == "root" and key.get_base64() == self.authorized else AUTH_FAILED

    def check_channel_request(self, _kind: str, _chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.transport.begun = threading.Thread(target=self.execute, args=(channel, command.decode()), daemon=True)
        return True

    def check_channel_pty_request(self, _channel: paramiko.Channel, _term: bytes, *size: Any) -> bool:
        self.size = size[:4]  # what follows are modes
        return True

    def check_channel_window_change_request(self, _channel: paramiko.Channel, *size: int) -> bool:
        _resize(self.terminal, size)
        return True

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        self.transport.begun = threading.Thread(target=self.serve_shell, args=(channel,), daemon=True)
        return True

    def serve_shell(self, channel: paramiko.Channel) -> None:
        self.terminal, theirs = pty.openpty()
        _resize(theirs, self.size)
        # A session of its own makes the terminal the shell's, so that Ctrl-C there is a signal.
        shell = ["setsid", "--ctty", "--wait", "sh", "-i"]
        process = subprocess.Popen(shell, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "PS1": "$ "})
        os.close(theirs)
        with os.fdopen(self.terminal, "r+b", buffering=0) as terminal:
            threading.Thread(target=_feed, args=(channel, os.fdopen(os.dup(self.terminal), "wb")), daemon=True).start()
            _drain(terminal, channel.sendall)
        with contextlib.suppress(OSError):  # the client has left
            channel.send_exit_status(process.wait())
            channel.close()

    def execute(self, channel: paramiko.Channel, text: str) -> None:
        if text == "hang up":
            self.transport.close()
            return
        script = self.translate(text)
        if script is None:
            return
        process = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        works = [
            threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True),
            threading.Thread(target=_drain, args=(process.stdout, channel.sendall), daemon=True),
            threading.Thread(target=_drain, args=(process.stderr, channel.sendall_stderr), daemon=True),
        ]
        for work in works:
            work.start()
        for work in works[1:]:
            work.join()
        with contextlib.suppress(OSError):  # the client has left
            channel.send_exit_status(process.wait())
            channel.close()


def _resize(terminal: int, size: tuple[int, ...]) -> None:
    columns, lines, width, height = size
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, width, height))


def _feed(channel: paramiko.Channel, pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError), pipe:
        while data := channel.recv(1 << 16):
            pipe.write(data)
            pipe.flush()


def _drain(pipe: IO[bytes], send: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError), pipe:
        while data := os.read(pipe.fileno(), 1 << 16):
            send(data)
