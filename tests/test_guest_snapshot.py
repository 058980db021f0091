"""Snapshots, with the fake QEMU: taken once, used by all, and done without where they cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_boot import Booter, booting
from vmtests import cache
from vmtests.errors import KernelFailure
from vmtests.guest import Guest, snapshot, sparse


@pytest.fixture
def booter(tmp_path: Path) -> Iterator[Booter]:
    with booting(tmp_path) as booter:
        yield booter


def first_line(guest: Guest) -> bytes:
    """Return the number of the process that booted the memory's content."""
    with guest.ram.open("rb") as memory:
        return memory.readline()


def only_entry() -> Path:
    [entry] = [entry.path for entry in cache.entries() if entry.kind == "snapshots"]
    return entry


def test_taken_once_and_restored_by_all(booter: Booter, tmp_path: Path) -> None:
    said: list[str] = []
    with booter(restore=True, tell=said.append) as first:
        booted = first_line(first)
        assert int(booted) != first.pid
        assert first.restored
        first.run(["true"])
    with booter(restore=True, tell=said.append) as second:
        assert first_line(second) == booted
        assert "-incoming" in second.argv
        console = (tmp_path / "evidence" / "console.log").read_text()
        assert "waiting for keys" in console
        assert console.index("[vmtests: restored from here on]") < console.index("vmtests: ready")
    assert said == []
    with booter() as cold:
        assert not cold.restored
        assert first_line(cold) != booted


def test_writes_stay_in_the_guests_own_copy(booter: Booter) -> None:
    with booter(restore=True) as guest, guest.ram.open("r+b") as memory:
        memory.write(b"something else")
    said = json.loads((only_entry() / "snapshot.json").read_text())
    assert said["ram_checksums"] == {"ram": sparse.checksum(only_entry() / "ram")}


@pytest.mark.parametrize("file", ["ram", "state", "snapshot.json"])
def test_damaged(booter: Booter, file: str) -> None:
    """A damaged one is not used, and the next guest takes a new one."""
    with booter(restore=True):
        pass
    damaged = only_entry() / file
    with damaged.open("r+b") as data:
        data.write(b"X")
    said: list[str] = []
    with booter(restore=True, tell=said.append) as guest:
        assert not guest.restored
    assert len(said) == 1
    assert said[0].startswith("booting from cold: the snapshot ")
    with booter(restore=True, tell=said.append) as guest:
        assert guest.restored
    assert len(said) == 1


@pytest.mark.parametrize("word", ["no-migration", "no-restore"])
def test_qemu_cannot(booter: Booter, word: str) -> None:
    said: list[str] = []
    with booter(word, restore=True, tell=said.append) as guest:
        assert not guest.restored
    assert len(said) == 1
    assert "QEMU" in said[0]


def test_another_command_line_is_another_snapshot(booter: Booter) -> None:
    with booter(restore=True), booter("word", restore=True) as other:
        assert other.restored
    assert len([entry for entry in cache.entries() if entry.kind == "snapshots"]) == 2


def test_kernel_that_dies_at_boot(booter: Booter) -> None:
    with pytest.raises(KernelFailure, match="booting kernel base: Kernel panic"):
        booter("panic", restore=True).__enter__()
    assert not [entry for entry in cache.entries() if entry.kind == "snapshots"]


def test_old_ones_are_freed(booter: Booter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "KEPT", 0)
    (cache.root() / "snapshots" / "old").mkdir(parents=True)
    (cache.root() / "snapshots" / ".old.lock").touch()
    with booter(restore=True):
        pass
    assert not (cache.root() / "snapshots" / "old").exists()


def test_sparse_copy_and_checksum(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "to"
    for path in (source, to):
        with path.open("wb") as file:
            file.truncate(64 << 20)
    with source.open("r+b") as file:
        file.write(b"begin")
        file.seek(32 << 20)
        file.write(b"\1" * (3 << 20))
    sparse.copy(source, to)
    assert to.read_bytes() == source.read_bytes()
    assert to.stat().st_blocks * 512 < 8 << 20
    before = sparse.checksum(source)
    with source.open("r+b") as file:
        file.seek(8 << 20)
        file.write(bytes(1 << 20))  # zeros in place of a hole
    assert sparse.checksum(source) == before == sparse.checksum(to)
    with source.open("r+b") as file:
        file.seek((33 << 20) + 17)
        file.write(b"\2")
    assert sparse.checksum(source) != before
