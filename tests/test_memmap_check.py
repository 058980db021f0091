"""The check on memmaps made by hand: right ones pass, and each planted fault is found where it is."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fake_memmap import (
    BASE,
    LAYOUT,
    MEMMAP,
    NVDIMM,
    PGMAP,
    FakeGuest,
    address,
    devdax,
    devdax_in_ram,
    fsdax,
    page,
    truth,
)
from vmtests.errors import HostFailure, KernelFailure
from vmtests.memmap.check import check
from vmtests.memmap.compare import pieces
from vmtests.memmap.expected import Facts, expected
from vmtests.memmap.layout import Role
from vmtests.memmap.result import MemmapResult
from vmtests.memmap.sections import _spread
from vmtests.memmap.truth import RangeTruth

FSDAX = truth()
DEVDAX = truth(kind=4, order=9)
IN_RAM = truth(kind=4, order=9, pages=2048, altmap=False)

#: kind of namespace -> how its files are made, and the truth about it
KINDS: dict[str, tuple[Callable[[Path], FakeGuest], RangeTruth]] = {
    "fsdax-dev": (fsdax, FSDAX),
    "devdax-2m-dev": (devdax, DEVDAX),
    "devdax-2m-mem": (devdax_in_ram, IN_RAM),
}


def at(pfn: int, offset: int = 0) -> int:
    """Return where a struct page of a map=dev namespace lies in physical memory."""
    return MEMMAP + 64 * (pfn - BASE) + offset


def found(result: MemmapResult) -> list[tuple[int, str, str, str]]:
    return [(example.pfn, example.field, example.got, example.wanted) for example in result.examples]


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_memmap_passes_and_every_page_was_seen(kind: str, tmp_path: Path) -> None:
    make, seen = KINDS[kind]
    result = check(make(tmp_path).access(), seen, node=0)
    assert result.passed
    assert result.pages_checked == result.pages_expected == seen.pages
    assert result.reserve_checked == result.reserve_expected == (1022 if seen.altmap else 0)
    assert result.pageblocks_checked == seen.nr_pages // 512 - (1 if seen.altmap else 0)
    assert (result.bytes_per_page_checked, result.mismatches, result.examples) == (64, 0, ())
    result.verify("a right one")


@pytest.mark.parametrize(
    ("pfn", "offset", "name"),
    [
        (BASE + 1024, 52, "_refcount"),  # the first page
        (BASE + 4095, 0, "flags"),  # the last
        (BASE + 4095, 63, "padding+56"),
        (BASE + 2000, 8, "pgmap"),
        (BASE + 2000, 23, "zone_device_data"),
        (BASE + 2, 8, "lru.next (reserve page)"),
        (BASE + 1023, 52, "_refcount (reserve page)"),
    ],
)
def test_one_wrong_byte_is_named(pfn: int, offset: int, name: str, tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    access = guest.access()
    with access.memory() as memory:
        old = memory.read(at(pfn, offset), 1)
    guest.write(at(pfn, offset), bytes([old[0] ^ 0x10]))
    result = check(access, FSDAX, node=0)
    assert (result.mismatches, dict(result.histogram)) == (1, {name: 1})
    assert [(example.pfn, example.field) for example in result.examples] == [(pfn, name)]
    with pytest.raises(KernelFailure, match="1 wrong struct pages") as failure:
        result.verify("base, fsdax-dev, bind 31")
    assert f"pfn {pfn:#x}: {name} is" in str(failure.value)


def test_got_and_wanted_are_the_fields_values(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.write(at(BASE + 1500, 52), (1).to_bytes(4, "little"))
    guest.write(at(BASE + 1501, 8), (PGMAP + 64).to_bytes(8, "little"))
    assert found(check(guest.access(), FSDAX, node=0)) == [
        (BASE + 1500, "_refcount", "0x00000001", "0x00000000"),
        (BASE + 1501, "pgmap", "0xff110000023456b8", "0xff11000002345678"),
    ]


def test_every_page_wrong_alike_is_wrong(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.store(BASE + 1024, [page(references=1)] * 3072, at(BASE + 1024))
    result = check(guest.access(), FSDAX, node=0)
    assert (result.mismatches, dict(result.histogram)) == (3072, {"_refcount": 3072})
    assert [example.pfn for example in result.examples] == list(range(BASE + 1024, BASE + 1044))
    with pytest.raises(KernelFailure, match="_refcount 3072") as failure:
        result.verify("it")
    assert "and 3052 more" in str(failure.value)


def test_where_in_the_range_a_field_is_wrong(tmp_path: Path) -> None:
    """4096 pages are 64 parts of 64; the altmap has the first 16 of them."""
    guest = fsdax(tmp_path)
    guest.store(BASE + 2048, [page(references=1)] * 96, at(BASE + 2048))
    guest.write(at(BASE + 4095, 40), b"\x01")
    counts, private = check(guest.access(), FSDAX, node=0).wrong_fields
    assert (counts.field, counts.count, counts.first_pfn, counts.last_pfn) == (
        "_refcount",
        96,
        BASE + 2048,
        BASE + 2143,
    )
    assert {part: count for part, count in enumerate(counts.parts) if count} == {32: 64, 33: 32}
    assert (private.field, private.count, private.parts) == ("private", 1, (*[0] * 63, 1))


def test_where_each_field_is_wrong_adds_up(tmp_path: Path) -> None:
    """Struct pages in shared memory count for all that share it, and frames for all that they hold."""
    guest = devdax_in_ram(tmp_path)
    guest.write((1 << 20) + 3 * 4096 + 4096 + 5 * 64 + 48, b"\0")  # the second folio's struct page 69
    guest.map(address(BASE + 512) + 7 * 4096, (1 << 20) + 4096)  # the first folio's tails
    result = check(guest.access(), IN_RAM, node=0)
    assert {one.field: sum(one.parts) for one in result.wrong_fields} == dict(result.histogram)
    assert {one.field: one.first_pfn - BASE - 512 for one in result.wrong_fields} == {
        "_mapcount": 69,
        "memmap frame (shared tails)": 448,
    }


def test_a_wrong_node_is_wrong_on_every_page(tmp_path: Path) -> None:
    result = check(fsdax(tmp_path).access(), FSDAX, node=1)
    assert dict(result.histogram) == {"flags": 3072, "flags (reserve page)": 1022}


def test_a_page_of_another_pgmap_is_wrong(tmp_path: Path) -> None:
    result = check(fsdax(tmp_path).access(), truth_with(pgmap=PGMAP + 0x200), node=0)
    assert dict(result.histogram) == {"pgmap": 3072}


def truth_with(**change: int) -> RangeTruth:
    return RangeTruth(**{**FSDAX.__dict__, **change})


def test_a_hole_in_the_file_is_wrong(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    file, offset = guest.place(at(BASE + 2048))
    with file.open("r+b") as handle:  # 64 struct pages that nobody wrote
        data = handle.read()
        handle.seek(0)
        handle.truncate(0)
        handle.write(data[:offset])
        handle.seek(offset + 4096)
        handle.write(data[offset + 4096 :])
    result = check(guest.access(), FSDAX, node=0)
    assert result.mismatches == 64
    assert result.histogram["flags"] == result.histogram["pgmap"] == 64


def test_a_file_cut_short_is_the_hosts_fault(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    access = guest.access()
    os.truncate(guest.nvdimm, at(BASE + 3000) - NVDIMM)
    with pytest.raises(HostFailure, match="was cut short while QEMU was using it"):
        check(access, FSDAX, node=0)


def test_a_page_that_is_not_mapped_is_no_pass(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.map(address(BASE + 2048), None)
    result = check(guest.access(), FSDAX, node=0)
    assert (result.pages_expected, result.pages_checked) == (3072, 3008)
    assert not result.passed
    assert found(result)[0] == (BASE + 2048, "struct page", "not mapped", "mapped")
    with pytest.raises(KernelFailure, match="only 3008 of 3072 struct pages"):
        result.verify("it")


def test_memory_that_is_in_no_file_is_the_hosts_fault(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.map(address(BASE + 2048), 3 << 30)
    with pytest.raises(HostFailure, match="in no file of the host"):
        check(guest.access(), FSDAX, node=0)


def test_the_last_pageblock(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.blocks[7] = 0
    result = check(guest.access(), FSDAX, node=0)
    assert found(result) == [(BASE + 3584, "pageblock", "0x0", "0x1")]
    assert (result.mismatches, result.histogram, result.passed) == (1, {"pageblock": 1}, False)


def test_the_skip_bit_of_a_pageblock_is_not_judged(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.blocks[5] = 1 | 1 << 3
    assert check(guest.access(), FSDAX, node=0).passed


def test_a_memmap_in_the_namespaces_own_data(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    data = (BASE + 2048) << 12
    guest.store(BASE + 4032, [page()] * 64, data)
    (example, *_) = check(guest.access(), FSDAX, node=0).examples
    assert (example.pfn, example.field, example.got) == (BASE + 4032, "memmap frame (in the data)", f"{data:#x}")
    assert check(guest.access(), FSDAX, node=0).wrong_fields[0].parts == (*[0] * 63, 64)


def test_two_pages_of_the_memmap_in_one_frame(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.map(address(BASE + 4032), at(BASE + 3968))
    result = check(guest.access(), FSDAX, node=0)
    assert dict(result.histogram) == {"memmap frame (used twice)": 128}


# Folios.


@pytest.mark.parametrize(
    ("inside", "offset", "name"),
    [
        (0, 0, "flags"),
        (1, 16, "_large_mapcount (tail 1)"),
        (1, 40, "_mm_ids (tail 1)"),
        (1, 56, "padding+56 (tail 1)"),
        (2, 24, "_deferred_list.prev (tail 2)"),
        (3, 24, "mapping"),
        (511, 8, "compound_info"),
    ],
)
def test_one_wrong_byte_of_a_folio_is_named(inside: int, offset: int, name: str, tmp_path: Path) -> None:
    guest = devdax(tmp_path)
    pfn = BASE + 2048 + inside
    access = guest.access()
    with access.memory() as memory:
        old = memory.read(at(pfn, offset), 1)
    guest.write(at(pfn, offset), bytes([old[0] ^ 2]))
    result = check(access, DEVDAX, node=0)
    assert [(example.pfn, example.field) for example in result.examples] == [(pfn, name)]
    assert result.mismatches == 1


def test_folios_larger_than_a_block_are_compared_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of 1 GiB are, with 16 MiB of memmap each."""
    monkeypatch.setattr("vmtests.memmap.compare.pieces", lambda segment, size: pieces(segment, size, 8192))
    guest = devdax(tmp_path)
    assert check(guest.access(), DEVDAX, node=0).passed
    wrong = [BASE + 1536 + inside for inside in (0, 2, 127, 128, 511)]
    for pfn in wrong:
        guest.write(at(pfn, 52), b"\x07")
    assert [example.pfn for example in check(guest.access(), DEVDAX, node=0).examples] == wrong


@pytest.mark.parametrize("block", [4096, 8192, 32768, 65536, 1 << 20])
def test_blocks_cover_every_struct_page_once(block: int) -> None:
    segment = expected(DEVDAX, LAYOUT, Facts(0, 0, 1 << 15)).pages[0]
    seen = [
        (unit, inside)
        for piece in pieces(segment, 64, block)
        for unit in range(piece.unit, piece.unit + piece.units)
        for inside in range(piece.first, piece.end)
    ]
    assert seen == [(unit, inside) for unit in range(6) for inside in range(512)]
    assert all(piece.pages * 64 <= block for piece in pieces(segment, 64, block))


def test_tails_that_point_at_the_first_folios_head(tmp_path: Path) -> None:
    guest = devdax(tmp_path)
    wrong = (address(BASE + 1024) | 1).to_bytes(8, "little")
    for inside in range(1, 512):
        guest.write(at(BASE + 1536 + inside, 8), wrong)
    result = check(guest.access(), DEVDAX, node=0)
    assert result.mismatches == 511
    assert found(result)[0][0] == BASE + 1537


def test_a_wrong_shared_tail_is_wrong_for_all_that_share_it(tmp_path: Path) -> None:
    guest = devdax_in_ram(tmp_path)
    frame = (1 << 20) + 3 * 4096  # the second folio's
    guest.write(frame + 4096 + 5 * 64 + 48, b"\0")  # its struct page 69
    result = check(guest.access(), IN_RAM, node=0)
    assert result.mismatches == 7
    assert [example.pfn for example in result.examples] == [BASE + 512 + 69 + 64 * i for i in range(7)]


def test_tails_that_do_not_share_a_frame(tmp_path: Path) -> None:
    guest = devdax_in_ram(tmp_path)
    guest.map(address(BASE + 512) + 7 * 4096, (1 << 20) + 4096)  # the first folio's tails
    result = check(guest.access(), IN_RAM, node=0)
    assert dict(result.histogram) == {"memmap frame (shared tails)": 64}
    assert result.examples[0].pfn == BASE + 512 + 448


@pytest.mark.parametrize("kind", KINDS)
def test_random_flips_are_all_found_and_nothing_else(kind: str, tmp_path: Path) -> None:
    make, seen = KINDS[kind]
    guest = make(tmp_path)
    access = guest.access()
    chance = random.Random(kind)
    first = BASE + 2 if seen.altmap else BASE
    pfns = chance.sample(range(first, seen.end_pfn), 300)
    if not seen.altmap:
        pfns = [pfn for pfn in pfns if (pfn - BASE) % 512 < 64]  # the frames that nobody shares
    flips = {}
    with access.memory(writable=True) as memory:
        window = access.window(memory, seen.start_pfn, seen.end_pfn)
        for index, pfn in enumerate(pfns):
            byte, bit = index % 64, chance.randrange(8)
            place = int(window.slice(address(pfn), 64)[0]) + address(pfn) % 4096 + byte
            memory.write(place, bytes([memory.read(place, 1)[0] ^ 1 << bit]))
            flips[pfn] = byte
    result = check(access, seen, node=0, limit=1000)
    assert {example.pfn for example in result.examples} == set(flips)
    assert result.mismatches == len(flips) == len(result.examples)
    for example in result.examples:
        covers = [field for role in Role for field in LAYOUT.named(role) if field.name == example.field.split(" (")[0]]
        assert any(field.offset <= flips[example.pfn] < field.offset + field.size for field in covers)


def test_pageblock_bits_of_half_a_byte() -> None:
    bits = np.array([0x21, 0x43], dtype=np.uint8)
    assert _spread(bits, 4).tolist() == [1, 2, 3, 4]
    assert _spread(bits, 8).tolist() == [0x21, 0x43]
