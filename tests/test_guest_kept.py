"""Guests that run on under a supervisor, with the fake QEMU: they outlive the process that started them, and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fake_boot import ROOT, Booter, booting
from vmtests.cli import main
from vmtests.errors import ExitCode, KernelFailure, UsageError
from vmtests.guest import Keeper, Kept, Workspace, kept

# Keeps a guest, prints its name and QEMU's number, and does then what the last argument says.
RUNNER = """
import os, signal, sys
from pathlib import Path
from tests.fake_boot import _booter
from vmtests.guest import Keeper

folder = Path(sys.argv[1])
keeper = Keeper(lambda error: "a test", lambda kept: print(kept.name, flush=True), outlives=sys.argv[2] != "shell")
with _booter(folder)(keeper=keeper) as guest:
    print(guest.pid, flush=True)
    if sys.argv[2] in ("die", "shell"):
        os.kill(os.getpid(), signal.SIGKILL)
    guest.console.send(b"x")
"""


@pytest.fixture
def booter(tmp_path: Path) -> Iterator[Booter]:
    with booting(tmp_path) as booter:
        yield booter


def keeping(names: list[Kept], why: str = "a test") -> Keeper:
    return Keeper(lambda _: why, names.append)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline, "it still runs after 20 s"
        time.sleep(0.01)


def run(folder: Path, how: str) -> tuple[int, str]:
    """Let another process keep a guest; return QEMU's number and what else was printed."""
    (folder / "other").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUNNER), str(folder / "other"), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    pid, _, rest = done.stdout.partition("\n")
    assert "Traceback" not in done.stderr, done.stderr
    return int(pid), rest.strip()


def test_not_wanted(booter: Booter) -> None:
    names: list[Kept] = []
    with booter(keeper=keeping(names, "")) as guest:
        assert guest.run(["true"]).status == 0
    assert gone(guest.pid)
    assert not names


def test_kept_and_ended_by_the_same_process(booter: Booter) -> None:
    names: list[Kept] = []
    with booter(keeper=keeping(names)) as guest:
        kept.remember(guest.workspace.files, [{"namespace": "fsdax-dev"}])
    [left] = names
    assert not gone(guest.pid)
    assert (left.why, left.port) == ("a test", guest.port)
    assert left.memmaps() == [{"namespace": "fsdax-dev"}]
    assert (left.files / "client-key").stat().st_mode & 0o777 == 0o600
    ways = "\n".join(left.ways_in())
    assert f"-p {guest.port} root@127.0.0.1" in ways
    assert f"vmtests memmap check {left.name}" in ways
    kept.end(left)
    wait_for_the_end(guest.pid)


def test_kept_after_a_failure(booter: Booter) -> None:
    names: list[Kept] = []
    with pytest.raises(KernelFailure), booter(keeper=keeping(names)) as guest:
        guest.run("panic")
    assert not gone(guest.pid)
    kept.end(names[0])


def test_kept_when_it_dies_at_boot(booter: Booter) -> None:
    names: list[Kept] = []
    with pytest.raises(KernelFailure, match="booting kernel base: Kernel panic"):
        booter("panic", keeper=keeping(names)).__enter__()
    assert names[0].port is None
    kept.end(names[0])


def test_qemu_that_has_died_is_not_kept(booter: Booter) -> None:
    names: list[Kept] = []
    with pytest.raises(Exception, match="QEMU ended on SIGKILL"), booter(keeper=keeping(names)) as guest:
        os.kill(guest.pid, signal.SIGKILL)
        guest.run(["sleep", "10"])
    assert not names


@pytest.mark.usefixtures("booter")
@pytest.mark.parametrize("how", ["leave", "die"])
def test_outlives_the_process(tmp_path: Path, how: str) -> None:
    pid, name = run(tmp_path, how)
    assert not gone(pid)
    Workspace.sweep()
    [left] = kept.find_all()
    if how == "leave":
        assert left.name == name
    assert kept.find(left.name) == left
    kept.end(left)
    assert gone(pid)
    assert kept.find_all() == []


@pytest.mark.usefixtures("booter")
def test_a_guest_of_an_open_shell_ends_with_it(tmp_path: Path) -> None:
    """Others can look into it, and yet SIGKILL of the one that has the shell leaves nothing."""
    pid, _ = run(tmp_path, "shell")
    wait_for_the_end(pid)
    deadline = time.monotonic() + 60
    while kept.find_all():  # the supervisor ends after QEMU
        assert time.monotonic() < deadline
        time.sleep(0.01)
    Workspace.sweep()


def test_a_guest_of_an_open_shell_is_not_one_that_was_left(booter: Booter, capsys: pytest.CaptureFixture[str]) -> None:
    with booter(keeper=Keeper(lambda _: "", lambda _: None, outlives=False)) as guest:
        [there] = kept.find_all()
        assert (there.left, there.why) == (False, "open in `vmtests boot`, and ends with it")
        assert main(["clean", "--guests"]) == ExitCode.PASSED
        assert guest.run(["true"]).status == 0
        capsys.readouterr()
        assert main(["clean", "--json"]) == ExitCode.PASSED
        [shown] = json.loads(capsys.readouterr().out)["guests"]
        assert (shown["name"], shown["left"]) == (there.name, False)
        assert f"vmtests vmcore --guest {there.name} -o {there.name}.vmcore" in shown["ways_in"]


@pytest.mark.usefixtures("booter")
def test_supervisor_killed(tmp_path: Path) -> None:
    """It takes QEMU with it, and the next start removes the folders."""
    pid, _ = run(tmp_path, "leave")
    [left] = kept.find_all()
    os.kill(int((left.files / "supervisor.pid").read_text()), signal.SIGKILL)
    wait_for_the_end(pid)
    Workspace.sweep()
    assert not left.files.exists()
    assert not left.sockets.exists()


@pytest.mark.usefixtures("booter")
def test_unknown_name() -> None:
    with pytest.raises(UsageError, match="no guest is kept") as caught:
        kept.find("guest-none")
    assert caught.value.exit_code == ExitCode.USAGE
