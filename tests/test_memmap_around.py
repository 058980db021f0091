"""Memory that was overwritten before a bind, and the struct pages around a range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fake_memmap import (
    BASE,
    FLAGS,
    FULL,
    LAYOUT,
    MEMMAP,
    NVDIMM,
    PGMAP,
    FakeGuest,
    address,
    fsdax,
    page,
    truth,
    words,
)
from vmtests.errors import HostFailure
from vmtests.memmap.check import check
from vmtests.memmap.guard import neighbours
from vmtests.memmap.poison import altmap_area, poison
from vmtests.memmap.result import MemmapResult

FSDAX = truth()


def at(pfn: int, offset: int = 0) -> int:
    """Return where a struct page of the namespace lies in physical memory."""
    return MEMMAP + 64 * (pfn - BASE) + offset


def found(result: MemmapResult) -> list[tuple[int, str, str, str]]:
    return [(example.pfn, example.field, example.got, example.wanted) for example in result.examples]


def test_poison_is_overwritten_by_a_right_bind_and_stays_where_nobody_writes(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    access = guest.access()
    with access.memory(writable=True) as memory:
        applied = poison(memory, *altmap_area(NVDIMM, NVDIMM + (16 << 20), LAYOUT))
    assert check(access, FSDAX, node=0, poison=applied).mismatches == 4094  # nothing bound it again
    result = check(fsdax(tmp_path).access(), FSDAX, node=0, poison=applied)
    assert result.passed
    assert result.poisoned
    assert result.pages_poisoned == 3072


def test_the_info_block_is_not_poisoned(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.write(NVDIMM + 4096, b"info" * 1024)
    with guest.access().memory(writable=True) as memory:
        poison(memory, *altmap_area(NVDIMM, NVDIMM + (16 << 20), LAYOUT))
        assert memory.read(NVDIMM + 4096, 4096) == b"info" * 1024
        assert memory.read(NVDIMM + (2 << 20) - 1, 2) == b"\0\xa5"


def test_an_untouched_page_that_was_written_is_named(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    access = guest.access()
    with access.memory(writable=True) as memory:
        applied = poison(memory, *altmap_area(NVDIMM, NVDIMM + (16 << 20), LAYOUT))
    guest = fsdax(tmp_path)
    guest.write(at(BASE + 1, 8), PGMAP.to_bytes(8, "little"))
    result = check(guest.access(), FSDAX, node=0, poison=applied)
    assert found(result) == [(BASE + 1, "pgmap (untouched page)", f"{PGMAP:#x}", "0xa5a5a5a5a5a5a5a5")]


def test_an_untouched_page_in_memory_that_was_free_may_hold_anything(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    access = guest.access()
    with access.memory(writable=True) as memory:
        applied = poison(memory, *altmap_area(NVDIMM, NVDIMM + (16 << 20), LAYOUT))
    guest = fsdax(tmp_path)
    guest.write(at(BASE + 1, 8), PGMAP.to_bytes(8, "little"))
    elsewhere = replace(applied, starts=applied.starts - (1 << 30), ends=applied.ends - (1 << 30))
    both = elsewhere.and_also(replace(applied, free=np.array([True])))
    assert both.free is not None
    assert both.free.tolist() == [False, True]
    result = check(guest.access(), FSDAX, node=0, poison=both)
    assert (result.mismatches, result.pages_poisoned) == (0, 3072)


def test_a_page_that_a_rebind_forgot_is_found_by_the_poison_only(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    access = guest.access()
    assert check(access, FSDAX, node=0).passed  # forgotten or not: the last bind's value is right
    guest.write(at(BASE + 2500), b"\xa5" * 64)
    result = check(access, FSDAX, node=0)
    assert {example.pfn for example in result.examples} == {BASE + 2500}
    assert result.histogram["padding+56"] == 1


# Neighbours.


def other(flags: int = FLAGS, pgmap: int = PGMAP + 0x400) -> bytes:
    """A struct page of someone else."""
    return words(flags, pgmap, 0, 0, (FULL, 0))


#: Of RAM: zone 1.
RAM_FLAGS = 0x0100_0000_0000_0000


def with_neighbours(folder: Path, flags: int = FLAGS) -> FakeGuest:
    guest = fsdax(folder)
    guest.store(BASE - 64, [other(flags)] * 64, 8 << 20)
    guest.store(BASE + 4096, [other()] * 64, 9 << 20)
    return guest


def test_neighbours_that_stay_as_they_were(tmp_path: Path) -> None:
    access = with_neighbours(tmp_path).access()
    before = neighbours(access, BASE, BASE + 4096)
    for known in (None, before):
        result = check(access, FSDAX, node=0, before=known)
        assert result.passed
        assert result.neighbours_checked == 128


@pytest.mark.parametrize(("pfn", "frame"), [(BASE - 1, (8 << 20) + 4032), (BASE + 4096, 9 << 20)])
def test_a_neighbour_that_changed(pfn: int, frame: int, tmp_path: Path) -> None:
    guest = with_neighbours(tmp_path)
    access = guest.access()
    before = neighbours(access, BASE, BASE + 4096)
    guest.write(frame + 52, b"\x05")
    assert check(access, FSDAX, node=0).passed  # nobody knows what it was
    assert found(check(access, FSDAX, node=0, before=before)) == [(pfn, "_refcount (outside the range)", "0x5", "0x0")]


def test_a_neighbour_that_got_this_ranges_pgmap(tmp_path: Path) -> None:
    guest = with_neighbours(tmp_path)
    guest.write(9 << 20, page())
    (example,) = check(guest.access(), FSDAX, node=0).examples
    assert (example.pfn, example.field) == (BASE + 4096, "pgmap (outside the range)")


def test_a_neighbour_in_ram_lives_on(tmp_path: Path) -> None:
    guest = with_neighbours(tmp_path, RAM_FLAGS)
    access = guest.access()
    before = neighbours(access, BASE, BASE + 4096)
    guest.write(8 << 20, other(RAM_FLAGS | 0x28, 0x1234))
    assert check(access, FSDAX, node=0, before=before).passed
    guest.write((8 << 20) + 4032, page())
    (example,) = check(access, FSDAX, node=0, before=before).examples
    assert (example.pfn, example.field) == (BASE - 1, "zone (outside the range)")


def test_a_neighbour_that_came_or_went(tmp_path: Path) -> None:
    guest = with_neighbours(tmp_path)
    before = neighbours(guest.access(), BASE, BASE + 4096)
    guest.map(address(BASE + 4096), None)
    result = check(guest.access(), FSDAX, node=0, before=before)
    assert found(result)[0] == (BASE + 4096, "struct page (outside the range)", "not mapped", "mapped")
    assert (result.mismatches, result.neighbours_checked) == (64, 64)


def test_neighbours_of_another_range_are_not_compared(tmp_path: Path) -> None:
    access = fsdax(tmp_path).access()
    with pytest.raises(HostFailure, match="the neighbours of pfn"):
        check(access, FSDAX, node=0, before=neighbours(access, BASE, BASE + 2048))
