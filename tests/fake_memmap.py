"""A memmap made by hand: files that hold a guest's physical memory, real page tables in them, no guest.

Nothing here comes from `vmtests.memmap.expected`: the struct pages are written out as the kernel's source has them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmtests.memmap.access import Access
from vmtests.memmap.expected import Facts
from vmtests.memmap.layout import Bits, Field, Pageblocks, PageLayout, Role
from vmtests.memmap.pagetable import Window, walk
from vmtests.memmap.physical import PhysicalMemory, Region
from vmtests.memmap.sections import Sections
from vmtests.memmap.truth import RangeTruth

VMEMMAP = 0xFFD4_0000_0000_0000
PGMAP = 0xFF11_0000_0234_5678
NVDIMM = 4 << 30
BASE = NVDIMM >> 12
RAM_BYTES = 16 << 20
NVDIMM_BYTES = 16 << 20
TAIL_MAPPING = 0xDEAD_0000_0000_0400
FULL = 0xFFFF_FFFF
#: zone_device (3) in bits 56-57, PG_reserved (bit 13), node 0.
FLAGS = 0x0300_0000_0000_2000

_START = (Field("flags", 0, 8),)
_WORDS = (Field("mapping", 24, 8), Field("index", 32, 8), Field("private", 40, 8))
_COUNTS = (Field("_mapcount", 48, 4), Field("_refcount", 52, 4))
_INFO = Field("compound_info", 8, 8)

#: Linux 7.3.4, x86-64, NODES_SHIFT=6, three zones before ZONE_DEVICE, neither MEMCG nor HUGETLB.
LAYOUT = PageLayout(
    series="7.3",
    size=64,
    fields={
        Role.PAGE: (*_START, Field("pgmap", 8, 8), Field("zone_device_data", 16, 8), *_WORDS, *_COUNTS),
        Role.RESERVE: (*_START, Field("lru.next", 8, 8), Field("lru.prev", 16, 8), *_WORDS, *_COUNTS),
        Role.TAIL_1: (
            *_START,
            _INFO,
            Field("_large_mapcount", 16, 4),
            Field("_nr_pages_mapped", 20, 4),
            Field("_entire_mapcount", 24, 4),
            Field("_pincount", 28, 4),
            Field("_mm_id_mapcount[0]", 32, 4),
            Field("_mm_id_mapcount[1]", 36, 4),
            Field("_mm_ids", 40, 8),
            *_COUNTS,
        ),
        Role.TAIL_2: (
            *_START,
            _INFO,
            Field("_deferred_list.next", 16, 8),
            Field("_deferred_list.prev", 24, 8),
            *_WORDS[1:],
            *_COUNTS,
        ),
        Role.TAIL: (*_START, _INFO, Field("zone_device_data", 16, 8), *_WORDS, *_COUNTS),
    },
    node=Bits(58, 6),
    zone=Bits(56, 2),
    last_cpupid=Bits(56, 0),
    cpupid_bits=0,
    zone_device=3,
    reserved=13,
    head=6,
    memory_types={"PRIVATE": 1, "COHERENT": 2, "FS_DAX": 3, "GENERIC": 4, "PCI_P2PDMA": 5},
    compound_mask=False,
    tail_mapping=TAIL_MAPPING,
    mm_id=True,
    dax_vmemmap_optimized=True,
    debug_vm=False,
    pageblocks=Pageblocks(order=9, bits=8, migratetype_mask=7, isolate_mask=16, movable=1, unmovable=0),
    pgmap_offsets={},
)


def truth(*, pages: int = 4096, order: int = 0, altmap: bool = True, kind: int = 3, base: int = BASE) -> RangeTruth:
    """Return a range of `pages` pages from `base` on; with an altmap its first 1024 hold the memmap."""
    return RangeTruth(
        start_pfn=base,
        nr_pages=pages,
        pgmap=PGMAP,
        base_pfn=base if altmap else 0,
        reserve=2 if altmap else 0,
        free=1022 if altmap else 0,
        altmap=altmap,
        type=kind,
        flags=int(altmap),
        vmemmap_shift=order,
    )


def address(pfn: int) -> int:
    """Return the kernel's address of a struct page."""
    return VMEMMAP + 64 * pfn


def words(flags: int, first: int, second: int, mapping: int, counts: tuple[int, int]) -> bytes:
    """Return a struct page from its words."""
    return struct.pack("<6Q2IQ", flags, first, second, mapping, 0, 0, *counts, 0)


def page(references: int = 0) -> bytes:
    """A page of its own: FS_DAX has no reference, GENERIC one."""
    return words(FLAGS, PGMAP, 0, 0, (FULL, references))


def reserve_page(pfn: int) -> bytes:
    """A page of the altmap: an empty list, one reference."""
    return words(FLAGS, address(pfn) + 8, address(pfn) + 8, 0, (FULL, 1))


def folio(pfn: int, order: int) -> list[bytes]:
    """The struct pages of a GENERIC folio, all of them."""
    head = address(pfn)
    first = struct.pack("<2Q6iQ2IQ", FLAGS | order, head | 1, -1, 0, -1, 0, -1, -1, 0, FULL, 0, 0)
    own = head + 2 * 64 + 16
    second = words(FLAGS, head | 1, own, own, (FULL, 0))
    rest = words(FLAGS, head | 1, 0, TAIL_MAPPING, (FULL, 0))
    return [words(FLAGS | 1 << 6, PGMAP, 0, 0, (FULL, 1)), first, second] + [rest] * ((1 << order) - 3)


@dataclass
class FakeAccess(Access):
    """A guest that is only files; `blocks` are its pageblock bits from BASE on, `bound` the range of its one pgmap."""

    regions: tuple[Region, ...]
    top: bytes
    blocks: np.ndarray[tuple[int], np.dtype[np.uint8]]
    bound: RangeTruth | None = None

    def memory(self, *, writable: bool = False) -> PhysicalMemory:
        return PhysicalMemory(self.regions, writable=writable)

    def window(self, memory: PhysicalMemory, first_pfn: int, end_pfn: int) -> Window:
        return walk(lambda at: memory.read(at, 4096), self.top, 4, address(first_pfn), address(end_pfn))

    def sections(self, first_pfn: int, end_pfn: int) -> Sections:
        shift = 15
        first, count = first_pfn >> shift, ((end_pfn - 1) >> shift) + 1 - (first_pfn >> shift)
        blocks = np.zeros(count * 64, dtype=np.uint8)
        at = (BASE >> 9) - first * 64
        size = min(len(self.blocks), len(blocks) - at)
        blocks[at : at + size] = self.blocks[:size]
        return Sections(first, np.ones(count, dtype=bool), frozenset(), blocks, 9, shift)

    def facts(self, sections: Sections, node: int) -> Facts:
        return Facts(node=node, vmemmap=VMEMMAP, section_pages=1 << 15, early_sections=sections.early)

    def pgmap_of(self, pfn: int) -> RangeTruth | None:
        inside = self.bound is not None and self.bound.start_pfn <= pfn < self.bound.end_pfn
        return self.bound if inside else None

    def confirm(self, truth: RangeTruth) -> None:
        pass


class FakeGuest:
    """Builds the files: memory from physical 0 on in `ram`, from 4 GiB on in `nvdimm`, tables at the end of `ram`."""

    def __init__(self, folder: Path, layout: PageLayout = LAYOUT) -> None:
        self.ram, self.nvdimm = folder / "ram", folder / "nvdimm"
        self.layout = layout
        for file, size in ((self.ram, RAM_BYTES), (self.nvdimm, NVDIMM_BYTES)):
            with file.open("wb") as handle:
                handle.truncate(size)
        self._next_table = RAM_BYTES - (4 << 20)
        self._tables: dict[int, list[int]] = {}
        self._top = self._table()
        self.blocks = np.ones(64, dtype=np.uint8)
        self.blocks[0] = 0

    def store(self, pfn: int, pages: Iterable[bytes], frame: int) -> None:
        """Write struct pages from `pfn` on and map them to physical memory from `frame` on (pages of the memmap)."""
        data = b"".join(pages)
        self.write(frame + address(pfn) % 4096, data)
        first = address(pfn) & ~4095
        for at in range(first, address(pfn) + len(data), 4096):
            self.map(at, frame + at - first)

    def map(self, kernel_address: int, frame: int | None) -> None:
        """Map a page; None unmaps it."""
        table = self._top
        for shift in (39, 30, 21):
            index = (kernel_address >> shift) & 511
            if not self._tables[table][index]:
                self._tables[table][index] = self._table() | 0x63
            table = self._tables[table][index] & ~0xFFF
        self._tables[table][(kernel_address >> 12) & 511] = 0 if frame is None else frame | 1 << 63 | 0x63

    def write(self, physical: int, data: bytes) -> None:
        file, offset = self.place(physical)
        with file.open("r+b") as handle:
            handle.seek(offset)
            handle.write(data)

    def place(self, physical: int) -> tuple[Path, int]:
        return (self.nvdimm, physical - NVDIMM) if physical >= NVDIMM else (self.ram, physical)

    def access(self) -> FakeAccess:
        for at, entries in self._tables.items():
            self.write(at, struct.pack("<512Q", *entries))
        return FakeAccess(
            program=None,
            layout=self.layout,
            source=None,  # type: ignore[arg-type]
            vmemmap=VMEMMAP,
            _levels=4,
            _section_shift=15,
            regions=(
                Region(0, self.ram.stat().st_size, self.ram, 0),
                Region(NVDIMM, NVDIMM_BYTES, self.nvdimm, 0),
            ),
            top=struct.pack("<512Q", *self._tables[self._top]),
            blocks=self.blocks,
        )

    def _table(self) -> int:
        self._next_table += 4096
        self._tables[self._next_table] = [0] * 512
        return self._next_table


#: Where the memmap of a range with altmap lies: 2 MiB into the namespace.
MEMMAP = NVDIMM + (2 << 20)


def fsdax(folder: Path) -> FakeGuest:
    """An fsdax map=dev namespace of 16 MiB: 2 untouched pages, 1022 reserve pages, 3072 pages of data."""
    guest = FakeGuest(folder)
    pages = [b"\xa5" * 64] * 2 + [reserve_page(BASE + i) for i in range(2, 1024)] + [page()] * 3072
    guest.store(BASE, pages, MEMMAP)
    return guest


def devdax(folder: Path) -> FakeGuest:
    """A devdax map=dev namespace of 16 MiB with folios of 2 MiB."""
    guest = FakeGuest(folder)
    pages = [b"\xa5" * 64] * 2 + [reserve_page(BASE + i) for i in range(2, 1024)]
    for pfn in range(BASE + 1024, BASE + 4096, 512):
        pages += folio(pfn, 9)
    guest.store(BASE, pages, MEMMAP)
    return guest


def devdax_in_ram(folder: Path) -> FakeGuest:
    """A devdax map=mem namespace of 8 MiB, folios of 2 MiB: two frames each, the second mapped again for the rest."""
    guest = FakeGuest(folder)
    for index, pfn in enumerate(range(BASE, BASE + 2048, 512)):
        frame = (1 << 20) + index * 3 * 4096
        guest.store(pfn, folio(pfn, 9)[:128], frame)
        for page_number in range(2, 8):
            guest.map(address(pfn) + page_number * 4096, frame + 4096)
    guest.blocks[0] = 1
    return guest
