"""Booting a guest, with a program that behaves like QEMU in its place."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import psutil
import pytest

from tests import fake_sshd
from tests.fake_boot import Booter, booting
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest, shell, workspace
from vmtests.guest.start import READY


@pytest.fixture(scope="module")
def booter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booter]:
    with booting(tmp_path_factory.mktemp("boot")) as booter:
        yield booter


@pytest.fixture(scope="module")
def guest(booter: Booter) -> Iterator[Guest]:
    """A guest that no test may harm."""
    with booter() as guest:
        yield guest
    assert not psutil.pid_exists(guest.pid)


@pytest.fixture
def start(booter: Booter) -> Iterator[Booter]:
    """What boots a guest; the words are for the fake QEMU."""
    before = set(psutil.Process().children())
    yield booter
    assert set(psutil.Process().children()) == before


def test_commands(guest: Guest) -> None:
    assert guest.run(["echo", "a b", "$HOME"]).stdout == "a b $HOME\n"
    result = guest.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert guest.run("read line; echo $line", stdin=b"said\n").stdout == "said\n"
    assert guest.run(["cat"]).stdout == ""
    log = (guest.evidence / "commands.log").read_text()
    assert "$ uname -r\n7.3.4\n[status 0, " in log
    assert "$ echo 'a b' '$HOME'\na b $HOME\n" in log


def test_lines_as_they_come(guest: Guest) -> None:
    lines: list[str] = []
    guest.run("printf 'one\\ntwo\\nthree'", line=lines.append)
    assert lines == ["one", "two", "three"]


def test_files(guest: Guest, tmp_path: Path) -> None:
    path = str(tmp_path / "file with space")
    guest.write(path, b"\0\xff" * 1_000_000)
    assert guest.read(path) == b"\0\xff" * 1_000_000


def test_much_in_both_directions(guest: Guest) -> None:
    result = guest.run("tee /dev/stderr", stdin=b"x" * 5_000_000)
    assert result.stdout == result.stderr == "x" * 5_000_000


def test_evidence(guest: Guest) -> None:
    assert guest.alive
    assert guest.ram.stat().st_size == guest.machine.memory_bytes
    assert guest.seconds_to_first_command > 0
    assert "vmtests: ready" in (guest.evidence / "console.log").read_text()
    assert "info usernet" in (guest.evidence / "qmp.log").read_text()
    assert os.access(guest.evidence / "argv.sh", os.X_OK)


def test_command_fails(guest: Guest) -> None:
    with pytest.raises(KernelFailure, match="a command failed in the guest") as caught:
        guest.run(["sh", "-c", "echo why >&2; exit 7"])
    assert caught.value.status == 7
    assert caught.value.output == "why\n"


def test_too_much_output(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "OUTPUT_BYTES", 1 << 20)
    with pytest.raises(HostFailure, match="it printed more than 1 MiB"):
        guest.run("yes")


def test_endless_line(guest: Guest) -> None:
    lengths: list[int] = []
    guest.run("head -c 3000000 /dev/zero", line=lambda line: lengths.append(len(line)))
    assert sum(lengths) == 3_000_000
    assert max(lengths) < 4 * shell.LINE_CHARACTERS


def test_callback_fails(guest: Guest) -> None:
    with pytest.raises(ZeroDivisionError):
        guest.run("echo 0", line=lambda line: print(1 // int(line)))
    assert guest.run(["true"]).status == 0


def test_command_too_long(guest: Guest) -> None:
    with pytest.raises(ValueError, match="longer than the guest's SSH server takes"):
        guest.run("x" * 10_000)


def test_wait_until(guest: Guest, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    threading.Timer(0.3, flag.touch).start()
    assert guest.wait_until(f"[ -e {flag} ] && echo there") == "there\n"
    with pytest.raises(KernelFailure, match="the flag did not come within 0.2 s"):
        guest.wait_until(f"[ ! -e {flag} ]", 0.2, what="the flag")


def test_command_hangs(start: Booter) -> None:
    hang = r"running `sleep 100` in the guest: not done within 0.2 s; its CPUs were at RIP"
    with pytest.raises(KernelFailure, match=hang) as caught, start() as guest:
        guest.run(["sleep", "100"], seconds=0.2)
    assert "NMI: Not continuing" in caught.value.output


def test_panic_at_boot(start: Booter) -> None:
    begun = time.monotonic()
    with pytest.raises(KernelFailure, match=r"booting kernel base: Kernel panic - not syncing: VFS") as caught:
        start("panic").__enter__()
    assert time.monotonic() - begun < 10
    assert "vpanic+0x308/0x380" in caught.value.output
    assert {path.name for path in caught.value.evidence} == {"console.log", "qemu.stderr", "argv.sh"}


def test_hang_at_boot(start: Booter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["vmtests.guest.start"], "SILENCE_SECONDS", 1.0)
    with pytest.raises(KernelFailure, match=r"booting kernel base: the console said nothing for 1 s"):
        start("mute").__enter__()


def test_qemu_dies_at_start(start: Booter) -> None:
    with pytest.raises(HostFailure, match="QEMU ended with status 1") as caught:
        start("die").__enter__()
    assert "something is wrong with this QEMU" in caught.value.output


def test_panic_ends_a_command(start: Booter) -> None:
    begun = time.monotonic()
    with pytest.raises(KernelFailure, match="running `panic` in the guest: Kernel panic"), start() as guest:
        begun = time.monotonic()
        guest.run("panic")
    assert time.monotonic() - begun < 10


def test_panic_that_the_body_did_not_notice(start: Booter) -> None:
    with pytest.raises(KernelFailure, match="the guest with kernel base is dead: Kernel panic"), start() as guest:
        with pytest.raises(KernelFailure):
            guest.run("panic")
        assert not guest.alive


def test_panic_explains_whatever_else_went_wrong(start: Booter) -> None:
    with pytest.raises(KernelFailure, match="Kernel panic") as caught, start() as guest:
        with pytest.raises(KernelFailure):
            guest.run("panic")
        raise OSError("the memory could not be read")
    assert isinstance(caught.value.__cause__, OSError)


def test_deadline_counts_from_the_beginning(start: Booter) -> None:
    ticks = "while sleep 0.1; do echo tick; done"
    with pytest.raises(KernelFailure, match=r"not done within 1 s"), start() as guest:
        guest.run(ticks, seconds=1)


def test_qemu_killed_and_the_body_did_not_notice(start: Booter) -> None:
    with (
        pytest.raises(HostFailure, match="the guest with kernel base is dead: QEMU ended on SIGKILL"),
        start() as guest,
    ):
        os.kill(guest.pid, signal.SIGKILL)
        guest.process.wait(5)


def test_qemu_killed(start: Booter) -> None:
    with pytest.raises(HostFailure, match="running `sleep 100` in the guest: QEMU ended on SIGKILL"), start() as guest:
        threading.Timer(0.2, os.kill, [guest.pid, signal.SIGKILL]).start()
        guest.run(["sleep", "100"])


def test_connection_lost(start: Booter) -> None:
    with pytest.raises(KernelFailure, match="SSH server has closed the connection"), start() as guest:
        guest.run("hang up")


@pytest.mark.parametrize("word", ["other-host-key", "ecdsa-host-key"])
def test_wrong_host_key(start: Booter, word: str) -> None:
    with pytest.raises(KernelFailure, match="logging in to the guest failed: Host key .* does not match"):
        start(word).__enter__()


def test_server_that_hangs_up(start: Booter) -> None:
    """A guest whose clock jumps may find us slow; one that always does is wrong."""
    with start("hangs-up=2") as guest:
        assert guest.run(["true"]).status == 0
    with pytest.raises(KernelFailure, match="logging in to the guest failed: the server hangs up"):
        start("hangs-up=100").__enter__()


@pytest.mark.parametrize("lie", fake_sshd.LIES)
def test_lying_server(
    start: Booter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lie: str
) -> None:
    """Whatever it sends, and however much: an error that can be shown, soon, and no memory is filled."""
    monkeypatch.setattr(shell, "LOGIN_SECONDS", 1.0)
    before = psutil.Process().memory_info().rss
    begun = time.monotonic()
    with pytest.raises(KernelFailure, match="logging in to the guest") as caught:
        start(f"lie={lie}").__enter__()
    assert time.monotonic() - begun < 15
    assert psutil.Process().memory_info().rss - before < 128 << 20
    if lie == "endless-packet":  # not whole: the first read takes some
        assert "the server announces a packet of 21474" in caught.value.message
    assert len(caught.value.message) < 300
    assert str(caught.value).replace("\n", "").isprintable()
    # What qemu.qmp says of an answer that came too late stays where it is (guest/monitor.py).
    assert not [said for said in caplog.records if said.name.startswith("paramiko")]


def test_interrupted(start: Booter) -> None:
    with pytest.raises(KeyboardInterrupt), start() as guest:
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        guest.run(["sleep", "100"])
    assert not psutil.pid_exists(guest.pid)


def test_quit_not_answered(start: Booter) -> None:
    with start("stuck") as guest:
        pass
    assert not psutil.pid_exists(guest.pid)


def test_power_off_is_no_death(start: Booter) -> None:
    with start() as guest:
        guest.power_off()


def test_other_release(start: Booter, guest: Guest) -> None:
    other = replace(guest.kernel, release="7.3.5")
    with pytest.raises(HostFailure, match=r"kernel base should be 7\.3\.5, but the guest runs 7\.3\.4"):
        start(kernel=other).__enter__()


def test_image_not_there(start: Booter, guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="the image of kernel base is not there"):
        start(kernel=replace(guest.kernel, image=tmp_path / "none")).__enter__()


def test_no_room_for_the_memory(start: Booter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise HostFailure("no room")

    monkeypatch.setattr(workspace, "require_room", refuse)
    with pytest.raises(HostFailure, match="no room"):
        start().__enter__()


@pytest.mark.parametrize("line", ["vmtests: ready", "vmtests: ready[    2.190271] tsc: Refined TSC clocksource"])
def test_the_kernel_may_write_behind_readiness(line: str) -> None:
    assert re.search(READY, line)
    assert not re.search(READY, "vmtests: readying")


def test_a_quiet_connection_sends_nothing_by_itself(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet of ours every ten seconds would be counted by a guest that counts instructions."""
    seen: list[int] = []
    monkeypatch.setattr(paramiko.Transport, "set_keepalive", lambda _, seconds: seen.append(seconds))
    with guest.quiet():
        assert seen == [0]
    assert seen == [0, shell.KEEPALIVE_SECONDS]
