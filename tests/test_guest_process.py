"""QEMU's process, played by small programs: it ends when we end, and whenever we say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vmtests.errors import HostFailure
from vmtests.guest import process
from vmtests.guest.death import Witness
from vmtests.guest.process import Process

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"

RUNNER = """
import sys, time
from pathlib import Path
from vmtests.guest.process import Process
with Process(["sleep", "100"], stderr=Path(sys.argv[1])) as process:
    print(process.pid, flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STEP_SECONDS", 0.2)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_leaving_ends_it(tmp_path: Path) -> None:
    with Process(["sleep", "100"], stderr=tmp_path / "stderr") as qemu:
        assert not gone(qemu.pid)
    assert gone(qemu.pid)


def test_leaving_by_an_exception_ends_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Process(["sleep", "100"], stderr=tmp_path / "stderr") as qemu:
        raise KeyboardInterrupt
    assert gone(qemu.pid)


def test_quit_is_asked_first(tmp_path: Path) -> None:
    with Process(["sleep", "100"], stderr=tmp_path / "stderr") as qemu:
        qemu.quit = lambda: os.kill(qemu.pid, signal.SIGUSR1)
    assert qemu.wait() == -signal.SIGUSR1


def test_ladder_up_to_sigkill(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", STUBBORN], stderr=tmp_path / "stderr") as qemu:
        while not qemu.stderr.read_text():
            time.sleep(0.01)

        def refuse() -> None:
            raise HostFailure("no answer")

        qemu.quit = refuse
    assert qemu.wait() == -signal.SIGKILL


def test_ladder_on_a_stopped_process(tmp_path: Path) -> None:
    with Process(["sleep", "100"], stderr=tmp_path / "stderr") as qemu:
        assert qemu.examine() is None
        os.kill(qemu.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while (cause := qemu.examine()) is None:
            assert time.monotonic() < deadline
        assert "stopped by a signal" in cause.message
    assert gone(qemu.pid)


def test_complaints_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LIMIT", 2 << 20)
    with Process(["sh", "-c", "exec yes 'virtio-serial-bus: Unexpected port' >&2"], stderr=tmp_path / "stderr") as qemu:
        deadline = time.monotonic() + 30
        while (cause := qemu.examine()) is None:
            assert time.monotonic() < deadline
        assert cause.message == f"QEMU (pid {qemu.pid}) has written more than 2 MiB to its stderr"
        assert "Unexpected port" in cause.output


def test_obituary(tmp_path: Path) -> None:
    script = "echo \"warning: TCG doesn't support requested feature: CPUID.01H:ECX.pcid\"; echo '\33[1mno'; exit 3"
    with Process(["sh", "-c", script], stderr=tmp_path / "stderr") as qemu:
        cause = qemu.obituary()
    assert (cause.witness, cause.by_kernel, cause.status) == (Witness.EXIT, False, 3)
    assert cause.message == "QEMU ended with status 3"
    assert cause.output == "\\x1b[1mno"


def test_killed(tmp_path: Path) -> None:
    with Process(["sleep", "100"], stderr=tmp_path / "stderr") as qemu:
        os.kill(qemu.pid, signal.SIGKILL)
        assert qemu.obituary().message == "QEMU ended on SIGKILL: somebody killed it, or the host, short of memory"


def test_not_installed(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="qemu-system-none is not installed: .* qemu-system-x86"):
        Process(["qemu-system-none"], stderr=tmp_path / "stderr")


def test_inherits_what_it_is_given(tmp_path: Path) -> None:
    read, write = os.pipe()
    argv = [sys.executable, "-c", f"import os; os.write({write}, b'hello')"]
    with Process(argv, stderr=tmp_path / "stderr", inherit=[write]) as qemu:
        os.close(write)
        assert os.read(read, 100) == b"hello"
        assert qemu.wait(5) == 0
    os.close(read)


def test_sigkill_of_the_runner_ends_it(tmp_path: Path) -> None:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path / "stderr")], stdout=subprocess.PIPE, text=True
    )
    assert runner.stdout is not None
    with runner.stdout:
        pid = int(runner.stdout.readline())
        assert not gone(pid)
        runner.kill()
        runner.wait()
        deadline = time.monotonic() + 30
        while not gone(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
