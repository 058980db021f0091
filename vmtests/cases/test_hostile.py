"""A guest that means harm cannot break the terminal, fill the disk or the memory, hang the run, or reach anything."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest, Machine, shell
from vmtests.guest.keys import Keys
from vmtests.guest.log import CappedLog
from vmtests.run.run import Run

KIB, MIB = 1 << 10, 1 << 20

#: What sets the title of a terminal's window, clears it, and turns the direction of writing round.
ESCAPES = r"\033]0;owned\007\033[2J\342\200\256"

#: A command that says without an end what a program can be made to choke on.
FLOODS = {"lines": "yes", "one line": "tr '\\0' x </dev/zero"}


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Whatever happens inside, our process may not grow by more bytes than that."""
    before = psutil.Process().memory_info().rss
    yield
    assert psutil.Process().memory_info().rss - before < most


def test_escapes_and_floods(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output without an end is cut off, and the guest goes on; a forged oops is shown without its escape sequences."""
    monkeypatch.setattr(shell, "OUTPUT_BYTES", 4 * MIB)
    with (
        pytest.raises(KernelFailure, match="running `sleep 60` in the guest: BUG: ") as caught,
        run.guest("base", 0) as guest,
    ):
        for flood in FLOODS.values():
            with little_memory(64 * MIB), pytest.raises(HostFailure, match="it printed more than 4 MiB"):
                guest.run(flood)
        assert guest.run(["uname", "-r"]).stdout.strip() == guest.kernel.release
        guest.run(rf"(sleep 1; printf '[    9.000000] BUG: {ESCAPES}\n' >/dev/ttyS0) >/dev/null 2>&1 &")
        guest.run(["sleep", "60"])
    assert r"\x1b]0;owned\x07\x1b[2J\u202e" in caught.value.message
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert b"\x1b]0;owned" in (guest.evidence / "console.log").read_bytes()


def test_private(run: Run) -> None:
    """Memory and monitors of a guest that runs are nobody else's; no key is on the disk or among QEMU's words."""
    with run.guest("base", 0) as guest:
        owned = (guest.workspace.files, guest.workspace.sockets)
        for folder in (*owned, *(folder.parent for folder in owned)):
            assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o700, os.getuid()), folder
        assert guest.ram.parent in owned
        assert guest.drgn_socket.parent in owned
        assert (guest.evidence / "argv.sh").stat().st_mode & 0o077 == 0
        assert not [path for path in guest.workspace.files.iterdir() if "key" in path.name]
        said = [*psutil.Process(guest.pid).cmdline(), *psutil.Process(guest.pid).environ().values()]
        assert not [word for word in said if "PRIVATE KEY" in word or "ssh-ed25519" in word]
        if os.getuid() == 0 and shutil.which("setpriv"):
            for path in (guest.ram, guest.drgn_socket):
                command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "stat", str(path)]
                assert (
                    "Permission denied" in subprocess.run(command, capture_output=True, text=True, check=False).stderr
                )


@pytest.mark.full
def test_endless_console(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A console without an end takes the disk that its log may have; the command that writes it has its deadline."""
    monkeypatch.setattr(run.evidence, "log_bytes", lambda: 64 * KIB)
    with (
        little_memory(64 * MIB),
        pytest.raises(KernelFailure, match="not done within"),
        run.guest("base", 0) as guest,
    ):
        started, seconds = time.monotonic(), 10 * guest.patience
        guest.run(f"yes \"$(printf '{ESCAPES}')\" >/dev/ttyS0", seconds=10)
    log = guest.evidence / "console.log"
    assert 64 * KIB <= log.stat().st_size < 65 * KIB
    assert time.monotonic() - started < seconds + 30


@pytest.mark.full
def test_endless_output_as_it_comes(run: Run) -> None:
    """A command whose output is taken line by line, as fast as it comes, ends at its deadline or at its limit."""
    lines = 0

    def count(_: str) -> None:
        nonlocal lines
        lines += 1

    with (
        little_memory(256 * MIB),
        pytest.raises((HostFailure, KernelFailure), match=r"running `yes`.*(more than 64 MiB|not done within)"),
        run.guest("base", 0) as guest,
    ):
        guest.run(["yes"], seconds=30, line=count)
    assert lines > 1000
    assert (guest.evidence / "commands.log").stat().st_size <= shell.OUTPUT_BYTES + MIB


@pytest.mark.full
@pytest.mark.parametrize(
    ("lie", "says"), [(ESCAPES, "Indecipherable protocol"), (f"SSH-{ESCAPES}-dropbear", "Incompatible version")]
)
def test_lying_ssh_server(run: Run, tmp_path: Path, lie: str, says: str) -> None:
    """Something else that answers on the guest's port 22 is told at once from a server."""
    with run.guest("base", 0) as guest, CappedLog(tmp_path / "commands.log") as log:
        guest.run(
            "listens() { netstat -ltn | grep -q ':22 '; }\n"
            # The parent of the one that serves us.
            "kill $(pidof dropbear | tr ' ' '\\n' | sort -n | head -n 1)\n"
            "while listens; do usleep 10000; done\n"
            f"printf '{lie}\\n%.0s' $(seq 200) >/tmp/lie\n"
            # Who hangs up at once has not been read.
            "(while :; do { cat /tmp/lie; sleep 60; } | nc -l -p 22; done) >/dev/null 2>&1 &\n"
            "until listens; do usleep 10000; done"
        )
        with pytest.raises(KernelFailure, match=f"logging in to the guest failed: {says}") as caught:
            shell.Shell(guest.port, Keys(), log, guest.death, guest.patience)
        assert all(line.isprintable() for line in str(caught.value).splitlines())


@dataclass(frozen=True)
class Listener:
    """Somebody on the host who waits for the guest, on all of the host's addresses."""

    tcp: socket.socket
    udp: socket.socket

    def heard(self) -> set[str]:
        """Return by which ways something has come."""
        found = set()
        for way, one in (("tcp", self.tcp), ("udp", self.udp)):
            one.settimeout(0.5)
            try:
                one.accept() if way == "tcp" else one.recv(100)
                found.add(way)
            except TimeoutError:
                pass
        return found


@contextmanager
def listening() -> Iterator[Listener]:
    """Listen on one port, free for both ways."""
    with socket.create_server(("", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        yield Listener(tcp, udp)


def call(guest: Guest, address: str, port: int) -> None:
    """Let the guest call an address of the host, by TCP and by UDP."""
    guest.run(f"echo hello | timeout 3 nc {address} {port}", check=False)
    guest.run(f"timeout 3 tftp -g -r hello {address} {port}", check=False)


def own_address() -> str | None:
    """Return an address of the host that others reach it by, if it has one."""
    found = [one.address for each in psutil.net_if_addrs().values() for one in each if one.family == socket.AF_INET]
    return next((address for address in found if not address.startswith("127.")), None)


@pytest.mark.full
def test_reaches_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the host, by any of its addresses, nor a name server; without QEMU's restrict=on the same calls come."""
    addresses = [address for address in ("10.0.2.2", own_address()) if address]
    with run.guest("base", 0) as guest, listening() as listener:
        for address in addresses:
            call(guest, address, listener.tcp.getsockname()[1])
        assert not listener.heard()
        assert guest.run("timeout 3 nslookup localhost 10.0.2.3", check=False).status != 0
        assert "SSH-2.0" in guest.run("echo | timeout 3 nc 127.0.0.1 22", check=False).stdout

    real = Machine.argv
    monkeypatch.setattr(Machine, "argv", lambda *args: [word.replace("restrict=on,", "") for word in real(*args)])
    with run.guest("base", 0) as guest, listening() as listener:
        call(guest, addresses[0], listener.tcp.getsockname()[1])
        assert listener.heard() == {"tcp", "udp"}
