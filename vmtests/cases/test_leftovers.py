"""Nothing is left behind: no process 2 s after the end of a run, no file after the next start, however it ended."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from vmtests import cache
from vmtests.cases.fault import crowd, keep
from vmtests.errors import ExitCode, HostFailure
from vmtests.guest import Workspace, workspace
from vmtests.run.run import Run

#: How long processes may go on after the end of whoever started them, on a machine with nothing else to do.
SECONDS = 2.0

# Runs the tests in a mount namespace where the guests' files lie on a small disk of their own. Once there is an NVDIMM
# the disk is cut down to what is on it: what the kernel writes then finds no room. Prints what is left in the
# end, and before that since when the disk has been full.
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
full = time.time()
code = tests.wait()
print(full)
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


# Runs the tests with a record that there is no room for.
FULL_RECORD = """
import subprocess, sys
from pathlib import Path
folder, command = Path(sys.argv[1]), sys.argv[2:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=True)
sys.exit(subprocess.run(command).returncode)
"""


def pytest_of_its_own(record: Path, *arguments: str) -> list[str]:
    """Return the command of another run: one short test, with a guest that starts from a snapshot."""
    return [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "vmtests.cases.test_user_data"),
        *("-k", "test_bind_while_another_runs", "--record", str(record), *arguments),
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


@dataclass(frozen=True)
class Place:
    """A cache, and a folder for sockets, that only the runs of one test use; all but the guests is everybody's.

    So whatever is in it afterwards, and whatever process has it in its environment, is theirs.
    """

    cache: Path

    def processes(self) -> list[psutil.Process]:
        """Return the processes that were started with this cache."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("XDG_CACHE_HOME") == str(self.cache):
                    found.append(process)
        return found

    def files(self) -> list[Path]:
        """Return the files of guests, and the half-made snapshots, that are there."""
        folders = (workspace.guests(), workspace.sockets())
        found = [path for folder in folders for path in folder.rglob("*") if path.name != ".lock"]
        snapshots = self.cache / "vmtests" / "snapshots"
        return found if snapshots.is_symlink() else [*found, *snapshots.glob(".*.tmp")]

    def verify(self, *, swept: bool = True) -> None:
        """See that soon no process is left, and no file after the next start, or at all if that need not sweep."""
        deadline = time.monotonic() + SECONDS * crowd()
        while True:
            left: list[object] = [*self.processes()]
            if not left:
                if swept:
                    Workspace.sweep()
                    cache.sweep()
                # A process that is ending has lost its environment before its files.
                left += self.files()
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        assert not left


@pytest.fixture
def place(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A place with the base kernel."""
    run.kernel("base")
    shared, own = cache.root(), tmp_path / "cache" / "vmtests"
    own.mkdir(parents=True, mode=0o700)
    for path in shared.iterdir():
        if path.name != "guests":
            (own / path.name).symlink_to(path)
    # pytest's own folders are too long for sockets.
    with tempfile.TemporaryDirectory(prefix="vmt-") as runtime:
        monkeypatch.setenv("XDG_CACHE_HOME", str(own.parent))
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        place = Place(own.parent)
        yield place
        for process in place.processes():
            process.kill()


def test_after_success(run: Run, place: Place) -> None:
    with run.guest("base", 0):
        assert place.files()
        assert place.processes()
    place.verify(swept=False)


def test_after_a_failure(run: Run, place: Place) -> None:
    with pytest.raises(ZeroDivisionError), run.guest("base", 0):
        raise ZeroDivisionError
    place.verify(swept=False)


def test_after_qemu_was_killed(run: Run, place: Place) -> None:
    with pytest.raises(HostFailure, match="QEMU ended on SIGKILL"), run.guest("base", 0) as guest:
        os.kill(guest.pid, signal.SIGKILL)
        guest.run(["sleep", "60"])
    place.verify(swept=False)


@dataclass(frozen=True)
class Going:
    """A run whose guest has an NVDIMM: its processes, and the folder of the guest's files."""

    run: psutil.Process
    qemu: psutil.Process
    files: Path

    def interrupt_again(self) -> None:
        """Press Ctrl-C, and again and again as long as QEMU is being ended."""
        deadline = time.monotonic() + 60
        with contextlib.suppress(psutil.NoSuchProcess):
            while self.qemu.is_running():
                assert time.monotonic() < deadline, "QEMU runs on, however often Ctrl-C is pressed"
                self.run.send_signal(signal.SIGINT)
                time.sleep(0.02)  # what is pressed must find different moments

    def break_kernel(self) -> None:
        """Overwrite the guest's kernel in its memory: it dies, hangs or resets."""
        with (self.files / "ram").open("r+b") as ram:
            ram.seek(16 << 20)
            ram.write(b"\xff" * (32 << 20))


@dataclass(frozen=True)
class End:
    """How a run ends: what is done to it, and its exit code. `swept`: only the next start removes its files."""

    act: Callable[[Going], object]
    code: int
    swept: bool = False


ENDS = {
    "success": End(lambda _: None, ExitCode.PASSED),
    "failure": End(Going.break_kernel, ExitCode.KERNEL_FAILED),
    "ctrl-c": End(lambda going: going.run.send_signal(signal.SIGINT), ExitCode.INTERRUPTED),
    "ctrl-c-again": End(Going.interrupt_again, ExitCode.INTERRUPTED),
    "sigterm": End(lambda going: going.run.terminate(), ExitCode.TERMINATED),
    "sigkill": End(lambda going: going.run.kill(), -signal.SIGKILL, swept=True),
    "qemu-sigkill": End(lambda going: going.qemu.kill(), ExitCode.HOST_FAILED),
    "qemu-sigstop": End(lambda going: going.qemu.suspend(), ExitCode.HOST_FAILED),
}


@pytest.mark.parametrize("end", ENDS)
def test_after_a_run(place: Place, tmp_path: Path, end: str) -> None:
    """A whole run, in a process of its own."""
    wanted = ENDS[end]
    with running(pytest_of_its_own(tmp_path / "out")) as process:
        wanted.act(Going(psutil.Process(process.pid), *guest_of(process)))
        said, _ = process.communicate(timeout=300)
        place.verify(swept=wanted.swept)
    assert process.returncode == wanted.code, said


def test_after_all_workers_were_killed(place: Place, tmp_path: Path) -> None:
    """With `pytest -n`, the workers die with the process that started them, and their guests with them."""
    with running(pytest_of_its_own(tmp_path / "out", "-n", "1")) as process:
        guest_of(process)
        assert psutil.Process(process.pid).children()
        process.kill()
        place.verify()


def test_after_sigkill_while_a_snapshot_is_taken(place: Place, tmp_path: Path) -> None:
    """What is half made goes with the next start, whatever that needs."""
    snapshots = place.cache / "vmtests" / "snapshots"
    snapshots.unlink(missing_ok=True)
    snapshots.mkdir()
    with running(pytest_of_its_own(tmp_path / "out")) as process:
        next(qemu for qemu in qemus_of(process) if list(snapshots.glob(".*.tmp")))
        process.kill()
        process.wait()
        assert place.files()
        place.verify()


def test_after_a_supervisor_was_killed(place: Place, tmp_path: Path) -> None:
    """With --keep QEMU is the child of a supervisor, and dies with it."""
    with running(pytest_of_its_own(tmp_path / "out", "--keep")) as process:
        qemu, _ = guest_of(process)
        supervisor = qemu.parent()
        assert supervisor is not None
        assert supervisor.pid != process.pid
        supervisor.kill()
        said, _ = process.communicate(timeout=300)
        place.verify()
    assert process.returncode == ExitCode.HOST_FAILED, said


def test_after_a_kept_guest(place: Place, tmp_path: Path) -> None:
    """With --keep a guest outlives SIGKILL of its run, as it must; then nothing of it outlives `vmtests clean`."""
    with running(pytest_of_its_own(tmp_path / "out", "--keep")) as process:
        qemu, _ = guest_of(process)
        process.kill()
        process.wait()
    assert qemu.is_running()
    clean = [sys.executable, "-m", "vmtests.cli", "clean", "--guests"]
    assert "ended guest-" in subprocess.run(clean, capture_output=True, text=True, check=True, timeout=60).stdout
    place.verify(swept=False)


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


def test_after_a_full_disk(run: Run, place: Place, tmp_path: Path) -> None:
    """QEMU dies of the page of the memmap that it cannot write, which is the host's failure."""
    out = tmp_path / "out"
    with running(in_a_namespace(FULL_DISK, workspace.guests(), pytest_of_its_own(out))) as process:
        said, _ = process.communicate(timeout=300)
        place.verify()
    assert process.returncode == ExitCode.HOST_FAILED, said
    full, left = said.splitlines()[-2:]
    assert left == "[]"
    failures = (out / "failures.txt").read_text()
    assert "QEMU ended on SIGBUS: one of its memory files has no room" in failures
    seconds = (out / "failures.txt").stat().st_mtime - float(full)
    keep(run, "the disk is full while the memmap is written", "host-failed", seconds, failures.splitlines()[1])


def test_after_a_run_whose_record_has_no_room(place: Place, tmp_path: Path) -> None:
    """The host's failure, too, and said although it cannot be written down."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with running(in_a_namespace(FULL_RECORD, disk, pytest_of_its_own(disk / "out"))) as process:
        said, _ = process.communicate(timeout=300)
        place.verify(swept=False)
    assert process.returncode == ExitCode.HOST_FAILED, said
    assert "HostFailure: the disk is full" in said
    assert "run.json cannot be written" in said


def test_with_a_full_dev_shm(place: Place, tmp_path: Path) -> None:
    """Nothing of ours lies there."""
    command = pytest_of_its_own(tmp_path / "out")
    with running(in_a_namespace(FULL_SHM, Path("/dev/shm"), command)) as process:
        said, _ = process.communicate(timeout=300)
        place.verify(swept=False)
    assert process.returncode == ExitCode.PASSED, said
