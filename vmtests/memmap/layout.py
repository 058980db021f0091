"""How a kernel lays out a struct page: values only. `debuginfo` derives them from the kernel at hand.

Offsets and sizes are bytes, shifts and widths are bits of the word they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

#: x86-64; struct page counts pages of this size whatever the folio's order.
PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


class Role(Enum):
    """What a struct page is used for; the same bytes have other names in each role."""

    PAGE = "page"  # a page of its own, or the first of a folio
    RESERVE = "reserve page"  # holds the memmap itself; on no pgmap
    TAIL_1 = "tail 1"
    TAIL_2 = "tail 2"
    TAIL = "tail"


@dataclass(frozen=True)
class Field:
    """One member as it is reported."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Bits:
    """A bit field in page->flags; width 0 where the config has none."""

    shift: int
    width: int

    def place(self, value: int) -> int:
        """Return `value` in its place in the word."""
        if not 0 <= value < 1 << self.width and value:
            raise ValueError(f"{value} does not fit into {self.width} bits")
        return value << self.shift

    @property
    def ones(self) -> int:
        """All bits of the field set."""
        return ((1 << self.width) - 1) << self.shift


@dataclass(frozen=True)
class Pageblocks:
    """The pageblock bits (include/linux/pageblock-flags.h)."""

    order: int
    bits: int  # per block in the bitmap
    migratetype_mask: int
    isolate_mask: int  # 0 where the config has no such bit
    movable: int
    unmovable: int


@dataclass(frozen=True)
class PageLayout:
    """What the expected contents of a memmap depend on, for one kernel and its config.

    Args:
        series: the kernel's series, "7.3".
        size: sizeof(struct page).
        fields: the members, by role, in order of offset; what they leave over is padding.
        node, zone, last_cpupid: bit fields of page->flags.
        cpupid_bits: width of a cpupid, also where it did not fit into the flags; 0 without NUMA_BALANCING.
        zone_device: the value of ZONE_DEVICE.
        reserved, head: bit numbers of PG_reserved and PG_head.
        memory_types: enum memory_type's values by name without its prefix, such as FS_DAX.
        compound_mask: a tail's compound_info holds a mask, not a pointer (include/linux/page-flags.h:208-280).
        tail_mapping: the value of TAIL_MAPPING (include/linux/poison.h:34).
        mm_id: CONFIG_MM_ID.
        dax_vmemmap_optimized: CONFIG_ARCH_WANT_OPTIMIZE_DAX_VMEMMAP.
        debug_vm: CONFIG_DEBUG_VM: fresh struct pages are overwritten before they are initialised.
        pageblocks: the pageblock bits.
        pgmap_offsets: where struct dev_pagemap has the fields that a probe reads.
    """

    series: str
    size: int
    fields: Mapping[Role, tuple[Field, ...]]
    node: Bits
    zone: Bits
    last_cpupid: Bits
    cpupid_bits: int
    zone_device: int
    reserved: int
    head: int
    memory_types: Mapping[str, int]
    compound_mask: bool
    tail_mapping: int
    mm_id: bool
    dax_vmemmap_optimized: bool
    debug_vm: bool
    pageblocks: Pageblocks
    pgmap_offsets: Mapping[str, int]

    def field(self, role: Role, name: str) -> Field | None:
        """Return the member called `name`, or None where this config has none."""
        return next((field for field in self.fields[role] if field.name == name), None)

    def named(self, role: Role) -> tuple[Field, ...]:
        """Return fields that cover every byte of a struct page: the members, and the padding between and after them."""
        covered: list[Field] = []
        end = 0
        for field in (*self.fields[role], Field("", self.size, 0)):
            while end < field.offset:  # in words: a mismatch is reported with the word's value
                size = min(field.offset - end, 8 - end % 8)
                covered.append(Field(f"padding+{end}", end, size))
                end += size
            if field.size:
                covered.append(field)
                end = field.offset + field.size
        return tuple(covered)

    def memory_type(self, value: int) -> str:
        """Return the name of an enum memory_type value, or its number."""
        return next((name for name, known in self.memory_types.items() if known == value), str(value))
