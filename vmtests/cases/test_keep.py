"""--keep: the guest runs on after pytest's end, the printed lines lead into it, and its memmap can be checked again."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from vmtests.errors import ExitCode
from vmtests.guest import Kept, kept
from vmtests.run.run import Run

COMMAND = [
    *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "vmtests.cases.test_rebind", "--keep"),
    *("-k", "test_rebind and base", "--pmem-size", "4G", "--rebinds", "1"),
]

VMTESTS = (sys.executable, "-m", "vmtests.cli")
#: That of this environment, be it in PATH or not.
DRGN = (sys.executable, "-m", "drgn")


@contextmanager
def left_by_a_run(folder: Path) -> Iterator[tuple[Kept, dict[str, list[str]]]]:
    """Let another pytest keep its guest; yield it, and the commands that were printed by their first word."""
    before = {guest.name for guest in kept.find_all()}
    done = subprocess.run([*COMMAND, "--record", folder], capture_output=True, text=True, timeout=600, check=False)
    found = [guest for guest in kept.find_all() if guest.name not in before]
    try:
        assert done.returncode == ExitCode.PASSED, done.stdout + done.stderr
        [guest] = found
        shown = done.stdout[done.stdout.index(f"{guest.name} runs on") :]
        yield guest, {words[0]: words for line in re.findall(r"^  (.+)$", shown, re.M) if (words := shlex.split(line))}
    finally:
        for guest in found:
            kept.end(guest)


def test_keep(run: Run, tmp_path: Path) -> None:
    """ssh, drgn and gdb get in by the lines as printed; the memmap is right, and a wrong bit is found."""
    run.kernel("base")
    with left_by_a_run(tmp_path / "out") as (guest, ways):
        assert output([*ways["ssh"], "uname -r"]) == guest.kernel.release
        assert guest.kernel.release in output(
            [*DRGN, *ways["drgn"][1:], "-q", "-e", 'print(prog["init_uts_ns"].name.release)']
        )
        if shutil.which("gdb"):
            # It stops the guest for as long as it is attached.
            assert "rip" in output([*ways["gdb"], "-batch", "-ex", "info registers rip", "-ex", "detach"])
        assert output([*ways["ssh"], "cat /sys/bus/nd/devices/region0/init_namespaces"])

        check = [*VMTESTS, "memmap", "check", guest.name]
        assert "1,031,680 of 1,031,680 struct pages checked" in output(check)
        with wrong_bit(guest):
            assert subprocess.run(check, capture_output=True, check=False).returncode == ExitCode.KERNEL_FAILED
        assert "0 wrong" in output(check)

        look = [*VMTESTS, "drgn", guest.name, "-c"]
        assert "<fsdax-dev pfn0.0: pfn 0x104200 to 0x200000" in output([*look, "print(*ranges())"])
        assert output([*look, "print(page(pfns[0])._refcount.counter.value_(), pgmap.type.value_())"]) == "0 3"
        with wrong_bit(guest):
            said = output([*look, "print(check())"])
            assert "1 wrong" in said
            assert said.endswith("False")

        file = str(tmp_path / "vmcore")
        assert f"vmtests memmap check {file}" in output([*VMTESTS, "vmcore", "--guest", guest.name, "-o", file])
        assert "1,031,680 of 1,031,680 struct pages checked" in output([*VMTESTS, "memmap", "check", file])
        assert output([*ways["ssh"], "uname -r"]) == guest.kernel.release

        supervisor = psutil.Process(int((guest.files / "supervisor.pid").read_text()))
        qemu = supervisor.children()
        assert output([*VMTESTS, *ways["vmtests"][1:]]) == f"ended {guest.name}"
        psutil.wait_procs([supervisor, *qemu], timeout=20)
        assert not any(process.is_running() for process in (supervisor, *qemu))
        assert not guest.files.exists()
        assert not guest.sockets.exists()


@contextmanager
def wrong_bit(guest: Kept) -> Iterator[None]:
    """Let one bit in the middle of the memmap be wrong: the memmap begins 2 MiB behind the namespace's start."""
    [memmap] = guest.memmaps()
    truth = memmap["truth"]
    at = (2 << 20) + 64 * (truth["reserve"] + truth["free"] + 500_000)
    flip(guest.files / "nvdimm0", at)
    yield
    flip(guest.files / "nvdimm0", at)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def output(command: list[str]) -> str:
    """Run a command that must succeed and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()
