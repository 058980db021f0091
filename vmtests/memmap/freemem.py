"""Overwriting the guest's free memory: the poison for a memmap that the kernel will allocate from its RAM (map=mem).

Which pages are free is read from the struct pages of RAM while the guest is stopped: a page that still says that it is
free has not been handed out yet, so nobody minds what it holds.
"""

from __future__ import annotations

import numpy as np
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.percpu import per_cpu_ptr
from numpy.typing import NDArray

from vmtests.errors import HostFailure
from vmtests.memmap.access import Access
from vmtests.memmap.debuginfo import PMD_ORDER, offset_of
from vmtests.memmap.layout import PAGE_SHIFT, PAGE_SIZE
from vmtests.memmap.pagetable import UNMAPPED
from vmtests.memmap.physical import PhysicalMemory, Region
from vmtests.memmap.poison import PATTERN, Poison

#: include/linux/page-flags.h:957: where page_type keeps the type.
_TYPE_SHIFT = 24

#: Switches of kernels that overwrite what they hand out, or look at what free pages hold (mm/mm_init.c:2430-2520).
_MINDING = ("init_on_alloc", "init_on_free", "_page_poisoning_enabled", "_debug_pagealloc_enabled")


def minds(access: Access) -> str | None:
    """Return the switch by which this kernel itself overwrites, or checks, its free memory; None if it does neither."""
    for name in _MINDING:
        try:
            if access.program[name].key.enabled.counter.value_():
                return name
        except KeyError:
            continue  # not in this config
    return None


def poison_free(access: Access, memory: PhysicalMemory, *, everywhere: bool = False) -> Poison:
    """Overwrite the guest's free pages and return which; the guest is stopped for the while.

    Args:
        access: attached to the guest.
        memory: entered, writable.
        everywhere: also what nobody has ever written, a hole in the host's file, for which the host then needs room.
            Without it no struct page of an earlier memmap is left over, but a new memmap may get memory that is zero.

    A kernel that minds (`minds`) is left alone: it does not hand out what the last memmap left behind.
    """
    if switch := minds(access):
        nothing = np.empty(0, dtype=np.int64)
        return Poison(PATTERN, nothing, nothing, by_kernel=switch)
    with access.stopped():
        parts = [_per_cpu(access), *(_buddies(access, memory, region) for region in memory.regions)]
        free = np.unique(np.concatenate(parts))
        if not everywhere:
            free = free[memory.written(free)]
        cuts = np.flatnonzero(np.diff(free) != PAGE_SIZE) + 1
        starts = free[np.concatenate(([0], cuts))] if len(free) else free
        ends = free[np.append(cuts - 1, -1)] + PAGE_SIZE if len(free) else free
        block = memoryview(PATTERN * (4 << 20))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            for address in range(start, end, len(block)):
                memory.write(address, block[: min(len(block), end - address)])
    return Poison(PATTERN, starts, ends, free=np.ones(len(starts), dtype=bool))


def _buddies(access: Access, memory: PhysicalMemory, region: Region) -> NDArray[np.int64]:
    """Return the physical addresses of the buddy allocator's pages in the region.

    The first page of a free block is of type buddy and has the block's order in `private`
    (include/linux/page-flags.h:978, mm/page_alloc.c:set_buddy_order()).
    """
    size, program = access.layout.size, access.program
    if PAGE_SIZE % size:
        raise HostFailure(f"sizeof(struct page) is {size}: which pages of RAM are free is only told for powers of two")
    page = program.type("struct page")
    type_at, private_at = offset_of(page, "page_type") // 4, offset_of(page, "private") // 8
    buddy = program.type("enum pagetype")
    value = next((item.value for item in buddy.enumerators or () if item.name == "PGTY_buddy"), None)
    if value is None:
        raise HostFailure("the kernel's debug info has no PGTY_buddy: which pages are free cannot be told")
    first_pfn = region.start >> PAGE_SHIFT
    window = access.window(memory, first_pfn, region.end >> PAGE_SHIFT)
    mapped = np.flatnonzero((window.frames != UNMAPPED) & memory.contains(window.frames))
    found: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    base = window.start - access.vmemmap
    for at in range(0, len(mapped), 512):
        part = mapped[at : at + 512]
        buffer = bytearray(len(part) * PAGE_SIZE)
        memory.read_frames(memoryview(buffer), window.frames[part])
        types = np.frombuffer(buffer, dtype="<u4")[type_at :: size // 4]
        orders = np.frombuffer(buffer, dtype="<u8")[private_at :: size // 8]
        pfns = ((base + part * PAGE_SIZE)[:, None] // size + np.arange(PAGE_SIZE // size)).reshape(-1)
        heads = np.flatnonzero(types >> _TYPE_SHIFT == value)
        for pfn, order in zip(pfns[heads].tolist(), orders[heads].tolist(), strict=True):
            found.append((pfn + np.arange(1 << order, dtype=np.int64)) << PAGE_SHIFT)
    return np.concatenate(found)


def _per_cpu(access: Access) -> NDArray[np.int64]:
    """Return the physical addresses of the free pages that wait in the CPUs' lists (mm/page_alloc.c:656-678)."""
    program = access.program
    types = program["MIGRATE_PCPTYPES"].value_()
    size = access.layout.size
    found: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for node in for_each_online_pgdat(program):
        for zone in node.node_zones:
            if not zone.present_pages:
                continue
            for cpu in for_each_online_cpu(program):
                lists = per_cpu_ptr(zone.per_cpu_pageset, cpu).lists
                # The lists behind a whole number of orders are those of huge pages.
                whole = len(lists) // types * types
                for index, head in enumerate(lists):
                    order = index // types if index < whole else PMD_ORDER
                    for page in list_for_each_entry("struct page", head.address_of_(), "pcp_list"):
                        pfn = (page.value_() - access.vmemmap) // size
                        found.append((pfn + np.arange(1 << order, dtype=np.int64)) << PAGE_SHIFT)
    return np.concatenate(found)
