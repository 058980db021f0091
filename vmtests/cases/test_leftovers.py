"""Nothing is left behind: no process 2 s after the end of a run, no file after the next start, however it ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from vmtests.errors import ExitCode, HostFailure
from vmtests.guest import Guest, Workspace, workspace
from vmtests.run.run import Run

#: How long processes may go on after the end of whoever started them.
SECONDS = 2.0

#: One bind of a small namespace.
SMALL = ("-k", "test_rebind and base", "--pmem-size", "4G", "--rebinds", "1")

# Runs the tests in a mount namespace where the guests' files lie on a small disk of their own. Once there is an NVDIMM
# the disk is cut down to what is on it: what the kernel writes then finds no room. Prints what is left in the end.
FULL_DISK = """
import os, subprocess, sys, time
from pathlib import Path
guests, command = Path(sys.argv[1]), sys.argv[2:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=700", "tmpfs", guests], check=True)
tests = subprocess.Popen(command)
while tests.poll() is None and not list(guests.glob("*/nvdimm0")):
    time.sleep(0.01)
used = sum(file.stat().st_blocks * 512 for file in guests.rglob("*") if file.is_file())
subprocess.run(["mount", "-o", f"remount,size={used + (4 << 20)}", guests], check=False)
code = tests.wait()
print([path.name for path in guests.iterdir() if path.is_dir()])
sys.exit(code)
"""

FULL_SHM = """
import subprocess, sys
from pathlib import Path
shm, command = Path(sys.argv[1]), sys.argv[2:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", shm], check=True)
(shm / "full").write_bytes(b"x" * 4096)
sys.exit(subprocess.run(command).returncode)
"""


def pytest_of_its_own(record: Path, *arguments: str) -> list[str]:
    """Return the command of another run."""
    return [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "vmtests.cases.test_rebind"),
        *("--record", str(record), *arguments),
    ]


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command, and kill it in the end if need be."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background jobs ignore SIGINT, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def qemus_of(process: subprocess.Popen[str], seconds: float = 300) -> Iterator[psutil.Process]:
    """Yield the QEMUs that the run has now, again and again, until it ends or the deadline passes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(psutil.Error):
            yield from (one for one in psutil.Process(process.pid).children(recursive=True) if "qemu" in one.name())
        time.sleep(0.05)
    raise AssertionError(f"the run had no guest: {process.stdout.read() if process.stdout else ''}")


def guest_of(process: subprocess.Popen[str]) -> tuple[psutil.Process, Path]:
    """Wait until the run has a guest with an NVDIMM; return its QEMU and the folder of its files."""
    for qemu in qemus_of(process):
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            for file in qemu.open_files():
                if Path(file.path).name == "nvdimm0":
                    return qemu, Path(file.path).parent
    raise AssertionError("unreachable: the wait for a guest has ended by itself")


def assert_gone(qemu: psutil.Process, files: Path) -> None:
    """See that the process ends by itself, and that the next start leaves no file of the guest."""
    psutil.wait_procs([qemu], timeout=SECONDS)
    assert not qemu.is_running()
    Workspace.sweep()
    assert not files.exists()
    assert not (workspace.sockets() / files.name).exists()


def traces(guest: Guest) -> tuple[psutil.Process, Path]:
    return psutil.Process(guest.pid), guest.workspace.files


def test_after_success(run: Run) -> None:
    with run.guest("base", 0) as guest:
        left = traces(guest)
    assert not left[1].exists()
    assert_gone(*left)


def test_after_a_failure(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.guest("base", 0) as guest:
        left = traces(guest)
        raise ZeroDivisionError
    assert not left[1].exists()
    assert_gone(*left)


def test_after_qemu_was_killed(run: Run) -> None:
    with pytest.raises(HostFailure, match="QEMU ended on SIGKILL"), run.guest("base", 0) as guest:
        left = traces(guest)
        os.kill(guest.pid, signal.SIGKILL)
        guest.run(["sleep", "60"])
    assert not left[1].exists()
    assert_gone(*left)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=["ctrl-c", "sigterm", "sigkill"],
)
def test_after_a_signal(run: Run, tmp_path: Path, number: signal.Signals, code: int) -> None:
    run.kernel("base")
    with running(pytest_of_its_own(tmp_path / "out", *SMALL)) as process:
        left = guest_of(process)
        process.send_signal(number)
        process.communicate(timeout=120)
        assert_gone(*left)
    assert process.returncode == code


def test_after_all_workers_were_killed(run: Run, tmp_path: Path) -> None:
    """With `pytest -n`, the workers die with the process that started them, and their guests with them."""
    run.kernel("base")
    with running(pytest_of_its_own(tmp_path / "out", *SMALL, "-n", "1")) as process:
        workers = psutil.Process(process.pid).children()
        left = guest_of(process)
        workers = psutil.Process(process.pid).children()
        process.kill()
        psutil.wait_procs(workers, timeout=SECONDS)
        assert not [worker for worker in workers if worker.is_running()]
        assert_gone(*left)


def in_a_namespace(script: str, folder: Path, command: Sequence[str]) -> list[str]:
    """Return the command that runs a script where it may mount something, without being root outside.

    Skips the test where the host allows no such namespaces.
    """
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this host lets nobody mount in a user namespace: {error}")
    return [*unshare, sys.executable, "-c", script, str(folder), *command]


def test_after_a_full_disk(run: Run, tmp_path: Path) -> None:
    """QEMU dies of the page that it cannot write, which is the host's failure."""
    run.kernel("base")
    command = pytest_of_its_own(tmp_path / "out", *SMALL)
    with running(in_a_namespace(FULL_DISK, workspace.guests(), command)) as process:
        qemu = next(qemus_of(process))  # it may be dead before it has opened its NVDIMM
        said, _ = process.communicate(timeout=300)
        psutil.wait_procs([qemu], timeout=SECONDS)
        assert not qemu.is_running()
    assert process.returncode == ExitCode.HOST_FAILED, said
    assert said.splitlines()[-1] == "[]"


def test_with_a_full_dev_shm(run: Run, tmp_path: Path) -> None:
    """Nothing of ours lies there."""
    run.kernel("base")
    command = pytest_of_its_own(tmp_path / "out", *SMALL)
    with running(in_a_namespace(FULL_SHM, Path("/dev/shm"), command)) as process:
        left = guest_of(process)
        said, _ = process.communicate(timeout=300)
        assert_gone(*left)
    assert process.returncode == ExitCode.PASSED, said
