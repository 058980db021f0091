"""Guests wait for room: by processors and memory, of all runs together, and never for each other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmtests.errors import HostFailure
from vmtests.guest import Workspace, workspace
from vmtests.guest.admission import Claim
from vmtests.host import facts

GIB = 1 << 30

OTHER = """
import os, sys
from vmtests.guest import Workspace
from vmtests.guest.admission import Claim
with Workspace(Claim(int(sys.argv[1]), int(sys.argv[2]), os.getpid(), sys.argv[3] == "kept")):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host of 2 processors, on which guests may have 8 GiB together."""
    with tempfile.TemporaryDirectory(prefix="vmt-") as runtime:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        monkeypatch.setattr(facts, "cpus", lambda: 2)
        monkeypatch.setattr(facts, "memory", lambda: (10 * GIB, 10 * GIB))
        monkeypatch.setattr(workspace, "WAIT_SECONDS", 0.5)
        yield


class Other:
    """A guest of another process."""

    def __init__(self, cpus: int, memory: int, how: str = "working") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(cpus), str(memory), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def admit(cpus: int, memory: int, said: list[str] | None = None) -> None:
    with Workspace(Claim(cpus, memory, os.getpid()), (said if said is not None else []).append):
        pass


def test_room_for_two() -> None:
    with Other(1, 4 * GIB):
        admit(1, 4 * GIB)


@pytest.mark.parametrize(("cpus", "memory", "why"), [(2, GIB, "use 1 of 2 processors"), (1, 5 * GIB, "have 4 GiB of")])
def test_no_room(cpus: int, memory: int, why: str) -> None:
    said: list[str] = []
    with Other(1, 4 * GIB), pytest.raises(HostFailure, match=why):
        admit(cpus, memory, said)
    assert len(said) == 1
    assert said[0].startswith("waiting: ")


def test_waits_until_the_other_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "WAIT_SECONDS", 30)
    other = Other(2, GIB)
    with Workspace(Claim(2, GIB, os.getpid()), lambda _: other.process.kill()):
        assert other.process.wait(5) != 0
    other.__exit__()


def test_the_only_guest_need_not_fit() -> None:
    admit(64, 100 * GIB)


def test_a_second_guest_of_one_process_does_not_wait() -> None:
    with Workspace(Claim(2, 8 * GIB, os.getpid())):
        admit(2, 8 * GIB)


def test_a_kept_guest_takes_memory_only() -> None:
    with Other(2, 2 * GIB, "kept"):
        admit(2, 2 * GIB)


def test_nobody_waits_for_kept_guests_to_end() -> None:
    said: list[str] = []
    with Other(0, 6 * GIB, "kept"), pytest.raises(HostFailure, match=r"vmtests clean --guests"):
        admit(1, 4 * GIB, said)
    assert not said
