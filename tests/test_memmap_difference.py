"""Memmaps of two kernels against each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fake_memmap import BASE, LAYOUT, MEMMAP, PGMAP, FakeGuest, address, devdax, fsdax, page, truth, words
from vmtests.errors import HostFailure, KernelFailure
from vmtests.memmap.difference import Digest, compare, digest, normalise

FSDAX = truth()


def made(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def with_pgmap(folder: Path, pgmap: int) -> FakeGuest:
    """The same namespace on another kernel, where the pgmap got another address."""
    guest = fsdax(folder)
    data = words(0x0300000000002000, pgmap, 0, 0, (0xFFFFFFFF, 0))
    guest.store(BASE + 1024, [data] * 3072, MEMMAP + 64 * 1024)
    return guest


def test_the_pgmaps_address_makes_no_difference(tmp_path: Path) -> None:
    base = digest(fsdax(made(tmp_path, "base")).access(), FSDAX)
    other = PGMAP + 0x4000
    patched = digest(with_pgmap(made(tmp_path, "patched"), other).access(), replace(FSDAX, pgmap=other))
    result = compare(base, patched, LAYOUT)
    assert (result.pages_compared, result.mismatches) == (4096, 0)


def test_but_another_pgmap_than_its_own_does(tmp_path: Path) -> None:
    base = digest(fsdax(made(tmp_path, "base")).access(), FSDAX)
    patched = digest(with_pgmap(made(tmp_path, "patched"), PGMAP + 0x4000).access(), FSDAX)
    assert compare(base, patched, LAYOUT).mismatches == 3072


def test_what_nobody_initialises_makes_no_difference(tmp_path: Path) -> None:
    base = fsdax(tmp_path)
    before = digest(base.access(), FSDAX)
    base.write(MEMMAP, b"\x11" * 128)
    assert compare(before, digest(base.access(), FSDAX), LAYOUT).mismatches == 0


@pytest.mark.parametrize(
    ("pfn", "offset", "name"),
    [
        (BASE + 2, 0, "flags"),
        (BASE + 1024, 60, "padding+56"),
        (BASE + 4095, 8, "pgmap"),
        (BASE + 4095, 52, "_refcount"),
    ],
)
def test_one_wrong_byte_is_named(pfn: int, offset: int, name: str, tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    before = digest(guest.access(), FSDAX)
    guest.write(MEMMAP + 64 * (pfn - BASE) + offset, b"\x77")
    result = compare(before, digest(guest.access(), FSDAX), LAYOUT)
    assert result.mismatches == 1
    assert [(example.pfn, example.field) for example in result.examples] == [(pfn, name)]


def test_a_pageblock_is_named(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    before = digest(guest.access(), FSDAX)
    guest.blocks[6] = 0
    result = compare(before, digest(guest.access(), FSDAX), LAYOUT)
    assert [(example.pfn, example.field) for example in result.examples] == [(BASE + 6 * 512, "pageblock")]


def test_a_digest_survives_its_file(tmp_path: Path) -> None:
    whole = digest(devdax(tmp_path).access(), truth(kind=4, order=9))
    whole.save(tmp_path / "digest.npz")
    assert Digest.load(tmp_path / "digest.npz") == whole
    assert (tmp_path / "digest.npz").stat().st_size < 64 << 10


def test_a_file_that_is_no_digest(tmp_path: Path) -> None:
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(HostFailure, match="not a memmap digest"):
        Digest.load(tmp_path / "no.npz")


def test_other_ranges_are_not_compared(tmp_path: Path) -> None:
    base = digest(fsdax(tmp_path).access(), FSDAX)
    with pytest.raises(HostFailure, match="not of the same range"):
        compare(base, replace(base, start_pfn=BASE + 512), LAYOUT)


def test_equal_blocks_are_kept_once(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path)
    pages = 3 * (1 << 15)
    guest.store(BASE, [page()] * pages, MEMMAP)
    whole = digest(guest.access(), truth(pages=pages, altmap=False))
    assert (len(whole.blocks), len(whole.contents)) == (3, 1)


def test_pointers_into_the_memmap_are_kept_by_their_distance() -> None:
    memmap = (address(BASE), address(BASE + 4096))
    here, there = address(BASE + 1024), address(BASE + 2048)
    one, other = (
        normalise(np.array([at + 8, at | 1, memmap[0] - 1, memmap[1], 5], dtype=np.uint64), FSDAX, at, memmap)
        for at in (here, there)
    )
    assert one.tolist() == other.tolist() == [8, 1, memmap[0] - 1, memmap[1], 5]


def test_a_difference_is_the_kernels_failure(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    before = digest(guest.access(), FSDAX)
    compare(before, before, LAYOUT).verify("base and patched")
    guest.write(MEMMAP + 64 * 1024 + 52, b"\1")
    with pytest.raises(KernelFailure, match=r"base and patched\): 1 of 4096") as failure:
        compare(before, digest(guest.access(), FSDAX), LAYOUT).verify("base and patched")
    assert "_refcount is 0x0 by the first, 0x1 by the second kernel" in str(failure.value)
