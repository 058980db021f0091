"""A program that behaves like QEMU with a guest in it, for tests without a VM.

It speaks real QMP and real SSH, reads the keys as images/init does, and runs the guest's commands on the host. Its
migration writes and reads a word, and a guest's memory begins with the process id of the one that booted. What else it
does is said by words on the kernel's command line: `die`, `panic`, `mute`, `stuck`, `other-host-key`, ...
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PANIC = """\
[    1.732568] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r
[    1.734783] CPU: 1 UID: 0 PID: 1 Comm: swapper/0 Not tainted 7.3.4 #1 PREEMPTLAZY\r
[    1.736658]  vpanic+0x308/0x380\r
[    1.740212] Kernel Offset: disabled\r
"""


#: What the fake's migration writes.
STATE = b"the state of all devices"


def _receive(connection: socket.socket, files: list[int]) -> bytes:
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 4)
        files += descriptors
        return data
    except OSError:  # the client has left
        return b""


def messages(connection: socket.socket, files: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that come; no newline need be between them. Files that come with them go to `files`."""
    text = ""
    while data := _receive(connection, files):
        text = (text + data.decode()).lstrip()
        while text:
            try:
                message, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            yield message
            text = text[end:].lstrip()


class Qemu:
    """One run, as its arguments ask for."""

    def __init__(self, argv: list[str]) -> None:
        options = list(itertools.pairwise(argv))
        backends = [value for name, value in options if name == "-chardev"]
        ends = {
            found[2]: int(found[1]) for value in backends if (found := re.match(r"socket,fd=(\d+),id=(\w+)", value))
        }
        self.words = dict(options)["-append"].split()
        self.ram = next(found[1] for _, value in options if (found := re.search(r"id=ram,.*mem-path=([^,]+)", value)))
        self.incoming = "-incoming" in argv
        self.continued = threading.Event()
        self.console = socket.socket(fileno=ends["console"])
        self.monitor = socket.socket(fileno=ends["monitor"])
        self.keys = socket.socket(fileno=ends["keys"])
        self.server = socket.create_server(("127.0.0.1", 0))
        self.greeted = threading.Event()

    def run(self) -> None:
        threading.Thread(target=self.serve_monitor, daemon=True).start()
        if self.incoming:
            self.continued.wait()
        else:
            with Path(self.ram).open("r+b") as memory:
                memory.write(b"%d\n" % os.getpid())
            self.console.sendall(b"[    0.000000] Linux version 7.3.4\r\nvmtests: init\r\n")
        if "die" in self.words:
            sys.exit("qemu-system-x86_64: something is wrong with this QEMU")
        if "panic" in self.words:
            self.panic()
        if "mute" not in self.words:
            if not self.incoming:
                self.console.sendall(b"vmtests: waiting for keys\r\n")
            given = dict(self.read_keys())
            self.console.sendall(b"vmtests: ready\r\n")
            self.serve_ssh(given["host-key"], given["authorized-key"])
        threading.Event().wait()

    def panic(self) -> None:
        self.greeted.wait()
        self.event("GUEST_PANICKED", {"action": "run"})
        time.sleep(0.1)  # the event first: the console's words are late, and must win all the same
        self.console.sendall(PANIC.encode())
        self.event("SHUTDOWN", {"guest": True, "reason": "guest-reset"})

    def event(self, name: str, data: dict[str, object]) -> None:
        self.send({"event": name, "data": data, "timestamp": {"seconds": 0, "microseconds": 0}})

    def send(self, message: dict[str, object]) -> None:
        self.monitor.sendall(json.dumps(message).encode() + b"\r\n")

    def serve_monitor(self) -> None:
        self.send(
            {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}
        )
        files: list[int] = []
        for command in messages(self.monitor, files):
            if "stuck" in self.words and command["execute"] == "quit":
                continue
            answer: dict[str, object] = {"return": {}}
            if command["execute"] == "human-monitor-command":
                port = self.server.getsockname()[1]
                answer = {
                    "return": f"  TCP[HOST_FORWARD]  10       127.0.0.1 {port}       10.0.2.15    22     0     0\r\n"
                }
            elif command["execute"] == "inject-nmi":
                self.console.sendall(b"[    9.000000] Kernel panic - not syncing: NMI: Not continuing\r\n")
            elif command["execute"] == "device_del":
                answer = {"error": {"class": "GenericError", "desc": "nvdimm device hot unplug is not supported yet."}}
            elif command["execute"] == "migrate" and "no-migration" in self.words:
                answer = {"error": {"class": "GenericError", "desc": "this QEMU cannot"}}
            elif command["execute"] == "cont":
                self.continued.set()
            self.send({**answer, "id": command.get("id")} if "id" in command else answer)
            self.greeted.set()  # the client is ready for events
            if command["execute"] == "quit":
                os._exit(0)
            if command["execute"] == "migrate" and "error" not in answer:
                os.write(files.pop(), STATE)
                self.event("MIGRATION", {"status": "completed"})
            if command["execute"] == "migrate-incoming":
                taken = os.read(files.pop(), 100) == STATE and "no-restore" not in self.words
                self.event("MIGRATION", {"status": "completed" if taken else "failed"})

    def read_keys(self) -> list[tuple[str, bytes]]:
        lines = iter(self.keys.makefile())
        return [(line.split()[0], base64.b64decode(line.split()[1])) for line in iter(lambda: next(lines), "end\n")]

    def serve_ssh(self, host_key: bytes, authorized_key: bytes) -> None:
        # Only now: it takes long to import.
        from tests import fake_sshd

        # dropbear's format: the string "ssh-ed25519", the length 64, seed, public key.
        seed = os.urandom(32) if "other-host-key" in self.words else host_key[19:51]
        hangs_up = next((int(word[len("hangs-up=") :]) for word in self.words if word.startswith("hangs-up=")), 0)
        for _ in range(hangs_up):
            with self.server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-hasty\r\n")
                connection.recv(100)
        for kind in (word.removeprefix("lie=") for word in self.words if word.startswith("lie=")):
            while True:
                fake_sshd.lie(self.server.accept()[0], kind)
        connection, _ = self.server.accept()
        ecdsa = "ecdsa-host-key" in self.words
        fake_sshd.serve(connection, None if ecdsa else seed, authorized_key.split()[1].decode(), self.command)

    def command(self, text: str) -> str | None:
        """Return what the host's shell is to run for a command of the guest's; None: nothing, the guest is dead."""
        if text == "panic":
            self.panic()
            return None
        return "echo 7.3.4" if text == "uname -r" else text


if __name__ == "__main__":
    Qemu(sys.argv).run()
