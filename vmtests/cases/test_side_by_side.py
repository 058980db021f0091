"""Two workers of one run, and two runs at once, on one machine: each is right, what is made is made once."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from vmtests import cache
from vmtests.errors import ExitCode
from vmtests.guest import workspace
from vmtests.host import facts
from vmtests.record import BindEntry, GuestEntry, MemmapEntry, Record, read
from vmtests.run.run import Run

GIB = 1 << 30

# Starts a small guest of base, with a word on its command line, from a snapshot; says whether it did.
RESTORE = """
import sys
from pathlib import Path
from vmtests import image, kernel
from vmtests.guest import Machine, boot

accelerator, word, evidence = sys.argv[1:]
machine = Machine(accelerator, cpus=1, memory_bytes=512 << 20)
built, initramfs = kernel.build(kernel.load("base")), image.build()
with boot(built, initramfs, machine, evidence=Path(evidence), append=[word], restore=True) as guest:
    print(guest.restored)
"""

SMALL = ("--pmem-size", "4G", "--rebinds", "1")


def start(record: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Begin another run."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "vmtests.cases.test_rebind"]
    return subprocess.Popen(
        [*command, "--record", record, *SMALL, *arguments],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must pass, and return what it said."""
    said, _ = process.communicate(timeout=900)
    assert process.returncode == ExitCode.PASSED, said
    return said


class Guests(threading.Thread):
    """Looks, as long as the context lasts, at how many virtual CPUs and bytes all guests of this user have at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most_cpus = self.most_guests = self.most_bytes = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            claims = []
            for folder in workspace.guests().glob("*/claim.json"):
                try:
                    claims.append(json.loads(folder.read_text()))
                except (OSError, ValueError):  # it has just gone
                    continue
            working = [claim for claim in claims if psutil.pid_exists(claim["pid"]) and not claim["kept"]]
            self.most_guests = max(self.most_guests, len(working))
            self.most_cpus = max(self.most_cpus, sum(claim["cpus"] for claim in working))
            self.most_bytes = max(self.most_bytes, sum(claim["memory_bytes"] for claim in working))

    @contextmanager
    def watched(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self._over.set()
            self.join(5)

    def within_the_host(self) -> bool:
        return self.most_cpus <= facts.cpus() and self.most_bytes <= 0.8 * facts.memory()[0]


def passed(record: Record, kernels: set[str]) -> None:
    """See that each kernel was bound and checked, and no page was wrong."""
    assert record.document["verdict"] == "passed"
    assert {entry.kernel for entry in record.entries(BindEntry)} == kernels
    checks = record.entries(MemmapEntry)
    assert {(entry.kernel, entry.bind_index) for entry in checks} == {
        (name, index) for name in kernels for index in (0, 1, 2)
    }
    assert all(entry.pages_checked == entry.pages_expected and not entry.mismatches for entry in checks)


@pytest.mark.full
def test_two_workers(run: Run, tmp_path: Path) -> None:
    """`pytest -n 2`: both kernels at once, one record, one verdict."""
    for name in run.options.kernel_names()[:2]:
        run.kernel(name)
    guests = Guests()
    with guests.watched():
        said = finish(start(tmp_path / "out", "-n", "2"))
    record = read(tmp_path / "out")
    passed(record, {"base", "patched"})
    assert said.count("verdict, against base") == 1
    assert len({entry.argv for entry in record.entries(GuestEntry)}) == 2
    assert guests.within_the_host()
    if facts.cpus() > 1:
        assert guests.most_guests > 1


@pytest.mark.full
def test_two_runs(run: Run, tmp_path: Path) -> None:
    """At once, by the same user: neither sees the other but to wait for it."""
    run.kernel("base")
    guests = Guests()
    with guests.watched():
        runs = [start(tmp_path / name, "-k", "test_rebind and base") for name in ("one", "other")]
        for process in runs:
            finish(process)
    for name in ("one", "other"):
        passed(read(tmp_path / name), {"base"})
    assert guests.within_the_host()


@pytest.mark.full
def test_a_timed_guest_runs_alone(run: Run, tmp_path: Path) -> None:
    """By the clock on the wall, a guest of another run would be in the figures: it waits, and says so."""
    run.kernel("base")
    with run.guest("base", 0) as guest:
        process = start(tmp_path / "out", "-k", "test_rebind and base", "--clock", "wall")
        assert process.stdout is not None
        line = next((line for line in process.stdout if "waiting" in line), None)
        assert line is not None
        assert "guests of other runs" in line
        assert not list((tmp_path / "out").glob("guest-*/qemu.stderr"))
        guest.run(["true"])
    finish(process)
    passed(read(tmp_path / "out"), {"base"})


@pytest.mark.full
def test_a_gate_by_the_clock_needs_the_host(run: Run, tmp_path: Path) -> None:
    """Two workers slow each other down: such times decide nothing, and the run is refused before it begins."""
    run.kernel("base")
    process = start(tmp_path / "out", "-n", "2", "--clock", "wall", "--max-regression", "1%")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.USAGE
    assert "slow each other down" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_a_snapshot_is_taken_once(run: Run, tmp_path: Path) -> None:
    """Two runs that need the same one at once: the second waits for it, and both start from it."""
    assert run.image(run.kernel("base")).path.exists()
    before = snapshots()
    word = f"once={time.time_ns()}"
    command = [sys.executable, "-c", RESTORE, run.accelerator.name, word]
    runs = [
        subprocess.Popen([*command, str(tmp_path / name)], stdout=subprocess.PIPE, text=True)
        for name in ("one", "other")
    ]
    assert [process.communicate(timeout=300)[0].split() for process in runs] == [["True"], ["True"]]
    made = [entry for path, entry in snapshots().items() if path not in before]
    assert len(made) == 1
    cache.free(made[0])


def snapshots() -> dict[Path, cache.Entry]:
    """Return the snapshots in the cache."""
    return {entry.path: entry for entry in cache.entries() if entry.path.parent.name == "snapshots"}
