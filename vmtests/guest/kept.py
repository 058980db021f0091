"""Guests that were left running by --keep, or are open in `vmtests boot`: what they are, the ways in, their end.

Layout: such a guest's workspace has `guest.json`, which says what it is, `memmaps.json`, what is known of the memmaps
that it has, the client's key and the pinned host key for ssh, and its supervisor's process id.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vmtests.errors import HostFailure, UsageError
from vmtests.guest import admission, workspace
from vmtests.guest.admission import Claim
from vmtests.guest.death import Death
from vmtests.guest.keys import Keys, openssh_public
from vmtests.guest.launch import PID_FILE, Launched
from vmtests.guest.log import CappedLog
from vmtests.guest.monitor import Monitor, require_free
from vmtests.guest.workspace import Workspace
from vmtests.kernel import Kernel
from vmtests.kernel.vmlinux import has_only_btf

_ABOUT = "guest.json"
_MEMMAPS = "memmaps.json"
_KEY, _KNOWN_HOSTS = "client-key", "known-hosts"

#: How long a kept guest may take to end.
END_SECONDS = 10.0

# The guests that we have kept ourselves, and what would have ended them.
_ours: dict[str, ExitStack] = {}


@dataclass(frozen=True)
class Kept:
    """A guest that runs, or stands still as it died, under its supervisor.

    Attributes:
        name: such as "guest-0123abcd"; also that of its two folders.
        files, sockets: its folders.
        kernel: what runs in it.
        evidence: where its console's log is.
        started: when, as ISO 8601.
        port: of its SSH server, on 127.0.0.1; None if it never got so far.
        why: what it was kept for.
        left: whoever started it has gone, or it would not end with them.
    """

    name: str
    files: Path
    sockets: Path
    kernel: Kernel
    evidence: Path
    started: str
    memory_bytes: int
    port: int | None
    why: str
    left: bool = True

    @property
    def drgn_socket(self) -> Path:
        """A QMP monitor of its own for drgn."""
        return self.sockets / "drgn"

    @property
    def qmp_socket(self) -> Path:
        """A QMP monitor for whoever comes; it serves one at a time."""
        return self.sockets / "qmp"

    @property
    def gdb_socket(self) -> Path:
        return self.sockets / "gdb"

    def ways_in(self) -> list[str]:
        """Return the commands that lead into it, and the one that ends it, to be pasted into a shell."""
        ways = []
        if self.port is not None:
            known = f"UserKnownHostsFile={self.files / _KNOWN_HOSTS}"
            options = ["-F", "none", "-i", str(self.files / _KEY), "-o", known, "-o", "StrictHostKeyChecking=yes"]
            ways.append(shlex.join(["ssh", *options, "-p", str(self.port), "root@127.0.0.1"]))
        if self.kernel.vmlinux is not None:
            ways.append(f"vmtests drgn {self.name}")
        if self.kernel.vmlinux is not None and not has_only_btf(self.kernel.vmlinux):
            vmlinux = str(self.kernel.vmlinux)
            ways.append(shlex.join(["drgn", "--qemu", str(self.drgn_socket), "-s", vmlinux]))
            if self.gdb_socket.exists():
                ways.append(shlex.join(["gdb", vmlinux, "-ex", f"target remote {self.gdb_socket}"]))
        if self.memmaps():
            ways.append(f"vmtests memmap check {self.name}")
        ways.append(f"vmtests vmcore --guest {self.name} -o {self.name}.vmcore")
        return [*ways, f"vmtests clean {self.name}"]

    def memmaps(self) -> list[dict[str, Any]]:
        """Return what is known of each memmap that it has, as remember() was given it."""
        try:
            found: list[dict[str, Any]] = json.loads((self.files / _MEMMAPS).read_text())
        except FileNotFoundError:
            return []
        return found

    @contextmanager
    def monitor(self) -> Iterator[Monitor]:
        """Connect to its monitor.

        Raises:
            HostFailure: it has ended, or somebody else is connected, to this monitor or to drgn's.
        """
        for path in (self.drgn_socket, self.qmp_socket):
            require_free(path)
        with socket.socket(socket.AF_UNIX) as connection, CappedLog(Path(os.devnull)) as log:
            connection.connect(str(self.qmp_socket))
            with Monitor(connection, log, Death()) as monitor:
                yield monitor


def begin(launched: Launched, kernel: Kernel, keys: Keys, *, left: bool) -> None:
    """Write down what a supervised guest is, as soon as it runs; `left`: it outlives the process that started it."""
    files = launched.workspace.files
    _write(files / _KEY, keys.private_openssh())
    about = {
        "kernel": kernel.to_json(),
        "evidence": str(launched.logs.folder.absolute()),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "memory_bytes": launched.machine.memory_bytes,
        "port": None,
        "why": "the tests' process ended before it did" if left else "open in `vmtests boot`, and ends with it",
        "left": left,
    }
    _write(files / _ABOUT, json.dumps(about, indent=1))


def opened(launched: Launched, keys: Keys, port: int) -> None:
    """Note that its SSH server answers."""
    files = launched.workspace.files
    _write(files / _KNOWN_HOSTS, f"[127.0.0.1]:{port} {openssh_public(keys.host)}\n")
    _update(files, port=port)


def keep(launched: Launched, stack: ExitStack, why: str) -> Kept:
    """Let a supervised guest run on, `stack` being what would end it, and return it."""
    gdb = launched.workspace.socket("gdb")
    with suppress(HostFailure):  # a QEMU that does not answer can still be looked at
        launched.monitor.human(f"gdbserver unix:{gdb},server=on,wait=off", seconds=5)
    _update(launched.workspace.files, why=why, left=True)
    # It has nothing to do any more, but its memory is taken.
    admission.write(launched.workspace.files, Claim(0, launched.machine.memory_bytes, kept=True))
    _ours[launched.workspace.id] = stack
    return _read(launched.workspace.files)


def remember(files: Path, memmaps: Sequence[Mapping[str, Any]]) -> None:
    """Keep with a guest, in the folder of its files, what is known of the memmaps that it has now; JSON values."""
    _write(files / _MEMMAPS, json.dumps(list(memmaps)))


def find_all() -> list[Kept]:
    """Return the kept guests of this user that there are, the oldest first."""
    found = []
    for folder in workspace.guests().iterdir():
        if (folder / PID_FILE).exists() and workspace.alive(folder):
            with suppress(FileNotFoundError):  # it is just ending
                found.append(_read(folder))
    return sorted(found, key=lambda kept: kept.started)


def find(name: str) -> Kept:
    """Return the kept guest of that name.

    Raises:
        UsageError: there is none.
    """
    there = {kept.name: kept for kept in find_all()}
    if name not in there:
        names = f"there are {', '.join(there)}" if there else "no guest is kept; `pytest --keep` keeps some"
        raise UsageError(f"there is no kept guest {name!r}: {names}")
    return there[name]


def end(kept: Kept) -> None:
    """End a kept guest and remove its folders.

    Raises:
        HostFailure: it does not end.
    """
    if (stack := _ours.pop(kept.name, None)) is not None:
        stack.close()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = _supervisor(kept)
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + END_SECONDS / 2
        while workspace.alive(kept.files) and time.monotonic() < deadline:
            time.sleep(0.02)  # flock() has no deadline of its own
    if workspace.alive(kept.files):
        raise HostFailure(
            f"{kept.name} does not end: its folder {kept.files} is still in use, perhaps by the pytest that kept it; "
            "end that first"
        )
    Workspace.sweep()


def _supervisor(kept: Kept) -> psutil.Process | None:
    """Return the supervisor's process, if that is what has its number."""
    with suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int((kept.files / PID_FILE).read_text()))
        if any(str(kept.files) in word for word in process.cmdline()):
            return process
    return None


def _read(files: Path) -> Kept:
    about = json.loads((files / _ABOUT).read_text())
    kernel = about.pop("kernel")
    optional = {name: Path(kernel[name]) if kernel[name] else None for name in ("vmlinux", "diff")}
    return Kept(
        name=files.name,
        files=files,
        sockets=workspace.sockets() / files.name,
        kernel=Kernel(
            **{
                **kernel,
                **optional,
                "image": Path(kernel["image"]),
                "config": Path(kernel["config"]),
                "modules": tuple(map(Path, kernel["modules"])),
                "patches": (),
            }
        ),
        **{**about, "evidence": Path(about["evidence"])},
    )


def _update(files: Path, **changes: object) -> None:
    path = files / _ABOUT
    _write(path, json.dumps({**json.loads(path.read_text()), **changes}, indent=1))


def _write(path: Path, text: str) -> None:
    """Replace a file whole; only its owner may read it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)
