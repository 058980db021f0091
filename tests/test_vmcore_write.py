"""Writing a dump: every byte of the guest's memory is in it, the holes are not, and a failure leaves nothing."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fake_vmcore import PRSTATUS, FakeMonitor, about
from vmtests.errors import HostFailure
from vmtests.memmap.physical import PhysicalMemory, regions
from vmtests.vmcore import elf, writer
from vmtests.vmcore.dump import Dump
from vmtests.vmcore.writer import GAP_BYTES, plan, write

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096


@pytest.fixture
def guest(tmp_path: Path) -> FakeMonitor:
    """4 GiB of RAM around a hole as q35 has it, and 100 GiB of NVDIMM behind; data in a few places."""
    (tmp_path / "guest").mkdir()
    ram, nvdimm = tmp_path / "guest/ram", tmp_path / "guest/nvdimm0-memory"
    chance = random.Random(4)
    for file, size, places in (
        (ram, 4 * GIB, [0, 7 * PAGE, MIB, 5 * MIB, 2 * GIB - PAGE, 2 * GIB, 4 * GIB - PAGE]),
        (nvdimm, 100 * GIB + 128 * 1024, [PAGE, 2 * MIB, 2 * MIB + PAGE, 50 * GIB, 100 * GIB]),
    ):
        with file.open("wb") as handle:
            handle.truncate(size)
            for place in places:
                handle.seek(place)
                handle.write(chance.randbytes(PAGE))
    return FakeMonitor(
        [
            (0, 640 * 1024, ram, 0),
            (MIB, 2 * GIB - MIB, ram, MIB),
            (4 * GIB, 2 * GIB, ram, 2 * GIB),
            (8 * GIB, 100 * GIB, nvdimm, 0),
        ]
    )


def memory_of(file: Path) -> PhysicalMemory:
    """Return the physical memory in a dump."""
    return PhysicalMemory(Dump(file, elf.read(file), Path("none")).regions())


def same(guest: FakeMonitor, file: Path) -> None:
    """Compare the dump with the guest where there are data, at both sides of that, and at random."""
    chance = random.Random(1)
    with PhysicalMemory(regions(guest)) as was, memory_of(file) as dumped:
        places = [end for region in was.regions for one in was.data(region) for end in one]
        places += [region.start for region in was.regions]
        places += [chance.randrange(region.start, region.end) for region in was.regions for _ in range(50)]
        compared = 0
        for place in places:
            for page in (place // PAGE * PAGE - PAGE, place // PAGE * PAGE):
                if any(region.start <= page < region.end for region in was.regions):
                    assert dumped.read(page, PAGE) == was.read(page, PAGE), hex(page)
                    compared += 1
        assert compared > 200


def test_a_dump_holds_the_memory_and_not_the_holes(guest: FakeMonitor, tmp_path: Path) -> None:
    file = tmp_path / "vmcore"
    told = write(file, guest, about())
    same(guest, file)
    assert told.memory_bytes == 640 * 1024 + 4 * GIB - MIB + 100 * GIB
    files = {one[2] for one in guest.regions}
    assert told.data_bytes <= sum(one.stat().st_blocks * 512 for one in files)
    # Not larger than what it was copied from, in blocks and in length: it can be sent elsewhere.
    assert file.stat().st_blocks * 512 <= told.data_bytes + 64 * 1024
    assert file.stat().st_size < 16 * MIB
    assert file.stat().st_mode & 0o777 == 0o600
    core = elf.read(file)
    assert core.notes[:2] == (PRSTATUS, PRSTATUS)
    assert [note.name for note in core.notes] == ["CORE", "CORE", "VMCOREINFO", "vmtests"]
    assert [one.end for one in core.segments[-1:]] == [108 * GIB]


def test_the_guest_stands_still_meanwhile(guest: FakeMonitor, tmp_path: Path) -> None:
    write(tmp_path / "vmcore", guest, about())
    assert guest.running
    assert [word for word in guest.said if word in ("stop", "cont")] == ["stop", "cont"]


def test_a_dead_guest_stays_as_it_is(guest: FakeMonitor, tmp_path: Path) -> None:
    guest.running = False
    write(tmp_path / "vmcore", guest, about())
    assert not {"stop", "cont"} & set(guest.said)


def test_from_one_file_system_to_another(guest: FakeMonitor) -> None:
    folder = Path("/dev/shm") / f"vmtests-test-{os.getpid()}"
    folder.mkdir()
    try:
        assert folder.stat().st_dev != guest.regions[0][2].stat().st_dev, (
            "both are on one file system: nothing is shown"
        )
        write(folder / "vmcore", guest, about())
        same(guest, folder / "vmcore")
    finally:
        shutil.rmtree(folder)


def test_copying_where_copy_file_range_does_not_go(
    guest: FakeMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    write(tmp_path / "vmcore", guest, about())
    same(guest, tmp_path / "vmcore")


def test_copying_in_parts(guest: FakeMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_COPY_BYTES", 1000)
    write(tmp_path / "vmcore", guest, about())
    same(guest, tmp_path / "vmcore")


def test_memory_that_nobody_has_written(guest: FakeMonitor, tmp_path: Path) -> None:
    for file in {one[2] for one in guest.regions}:
        size = file.stat().st_size
        os.truncate(file, 0)
        os.truncate(file, size)
    assert write(tmp_path / "vmcore", guest, about()).data_bytes == 0
    with memory_of(tmp_path / "vmcore") as dumped:
        assert dumped.read(108 * GIB - PAGE, PAGE) == bytes(PAGE)


def test_a_file_system_without_nameless_files(
    guest: FakeMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    write(tmp_path / "vmcore", guest, about())
    same(guest, tmp_path / "vmcore")
    with small_files(30 * 1024), pytest.raises(HostFailure, match="nothing of it is left"):
        write(tmp_path / "other", guest, about())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guest", "vmcore"]


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of ours can grow beyond `limit` bytes inside."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failure_in_the_middle_leaves_the_old_dump_and_a_running_guest(guest: FakeMonitor, tmp_path: Path) -> None:
    file = tmp_path / "vmcore"
    file.write_text("the old one")
    with (
        small_files(30 * 1024),
        pytest.raises(HostFailure, match=r"vmcore cannot be written: File too large; nothing"),
    ):
        write(file, guest, about())
    assert file.read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guest", "vmcore"]
    assert guest.running


#: Says when the first bytes are to be copied, and waits there to be killed.
KILLED = """
import sys, time
from pathlib import Path
from tests.fake_vmcore import FakeMonitor, about
from vmtests.vmcore import writer

def wait(*_):
    print("copying", flush=True)
    time.sleep(60)

writer._move = wait
ram = Path(sys.argv[1])
writer.write(Path(sys.argv[2]), FakeMonitor([(0, ram.stat().st_size, ram, 0)]), about())
"""


def test_not_even_sigkill_leaves_a_part_of_it(guest: FakeMonitor, tmp_path: Path) -> None:
    ram = guest.regions[0][2]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, ram, tmp_path / "vmcore"], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"copying\n"
        process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["guest"]


def test_a_dump_that_would_be_too_large(guest: FakeMonitor, tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match=r"would have 0 MiB, more than the 0 MiB that it may"):
        write(tmp_path / "vmcore", guest, about(), most_bytes=PAGE)
    assert guest.running


def test_a_full_disk(guest: FakeMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 64 * MIB))
    with pytest.raises(HostFailure, match="and 64 MiB are free there: free some, or name a file on a larger disk"):
        write(tmp_path / "vmcore", guest, about())


def test_a_folder_that_is_not_there(guest: FakeMonitor, tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match=r"nowhere/vmcore cannot be written: No such file"):
        write(tmp_path / "nowhere/vmcore", guest, about())


def test_a_guest_that_cannot_be_opened_later(guest: FakeMonitor, tmp_path: Path) -> None:
    guest.vmcoreinfo = None
    with pytest.raises(HostFailure, match=r"the guest gives no VMCOREINFO.* -device vmcoreinfo"):
        write(tmp_path / "vmcore", guest, about())
    assert not (tmp_path / "vmcore").exists()
    assert guest.running


def test_a_memory_file_that_was_cut_short(guest: FakeMonitor, tmp_path: Path) -> None:
    os.truncate(guest.regions[-1][2], 3 * MIB)
    write(tmp_path / "vmcore", guest, about())
    with memory_of(tmp_path / "vmcore") as dumped:
        assert dumped.read(8 * GIB + 50 * GIB, PAGE) == bytes(PAGE)
        assert dumped.read(8 * GIB + 2 * MIB, PAGE) != bytes(PAGE)


@pytest.mark.parametrize("seed", range(20))
def test_segments_cover_each_region_and_take_in_small_holes(seed: int) -> None:
    chance = random.Random(seed)
    parts = []
    at = 0
    for _ in range(chance.randint(1, 4)):
        start = at + chance.choice([0, PAGE * chance.randint(1, 1000)])
        place, ranges = start + chance.choice([PAGE, 5 * MIB]), []
        if chance.random() < 0.5:
            ranges.append((start, start + PAGE))
        for _ in range(chance.randint(0, 6)):
            length = PAGE * chance.randint(1, 600)
            ranges.append((place, place + length))
            place += length + PAGE * chance.choice([1, 100, 255, 256, 300, 4000])
        at = place
        parts.append((start, at, ranges))
    segments = plan(parts)
    for start, end, ranges in parts:
        mine = [one for one in segments if start <= one.address < end]
        assert mine[0].address == start
        assert [one.end for one in mine] == [*(one.address for one in mine[1:]), end]
        for first, stop in ranges:
            assert any(one.address <= first and stop <= one.address + one.stored for one in mine)
        for one in mine:
            assert 0 <= one.stored <= one.size
            # What is stored begins and ends with data, and no hole in it is large.
            inside = [(a, b) for a, b in ranges if one.address <= a < one.address + one.stored]
            edges = [one.address, *(edge for pair in inside for edge in pair), one.address + one.stored]
            assert all(edges[i + 1] - edges[i] < GAP_BYTES for i in range(0, len(edges), 2))
        for one, following in itertools.pairwise(mine):
            assert one.size - one.stored >= GAP_BYTES or not one.stored
            assert following.stored


def test_a_memory_in_too_many_pieces_gets_larger_holes() -> None:
    ranges = [(place, place + PAGE) for place in range(0, 8 * GIB, 2 * MIB)]
    assert len(plan([(0, 8 * GIB, ranges)], most=10_000)) == 4096
    few = plan([(0, 8 * GIB, ranges)])
    assert len(few) == 1
    assert few[0].stored == ranges[-1][1]
    # No larger than need be.
    apart = [*ranges, (16 * GIB, 16 * GIB + PAGE)]
    assert [one.address for one in plan([(0, 32 * GIB, apart)])] == [0, 16 * GIB]
    assert len(plan([(0, GIB, []), (GIB, 2 * GIB, [])], most=1)) == 2
