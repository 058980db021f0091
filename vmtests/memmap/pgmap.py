"""The pgmaps as the kernel keeps them: a range's truth at the time of looking.

pgmap_array (mm/memremap.c:17 in 7.3.4) has each pgmap under the pfns of its range. It tells whether what a probe saw
still holds; and for a kernel that cannot be probed it is the second best truth.
"""

from __future__ import annotations

import drgn
from drgn.helpers.linux.xarray import xa_for_each, xa_load

from vmtests.errors import HostFailure
from vmtests.memmap.debuginfo import PGMAP_FIELDS
from vmtests.memmap.layout import PAGE_SHIFT
from vmtests.memmap.truth import PGMAP_ALTMAP_VALID, RangeTruth


def truths(program: drgn.Program) -> tuple[RangeTruth, ...]:
    """Return the range of every pgmap of the running kernel, in order of address.

    Raises:
        HostFailure: the debug info does not tell, or a pgmap has several ranges.
    """
    found: dict[int, int] = {}
    for index, entry in xa_for_each(_array(program)):
        found.setdefault(entry.value_(), index)
    return tuple(_truth(program, address) for address in found)


def find(program: drgn.Program, pfn: int) -> RangeTruth | None:
    """Return the range that a page belongs to, or None if it is on no pgmap."""
    address = xa_load(_array(program), pfn).value_()
    return _truth(program, address) if address else None


def _array(program: drgn.Program) -> drgn.Object:
    try:
        return program["pgmap_array"].address_of_()
    except KeyError as error:
        raise HostFailure("the kernel's debug info has no pgmap_array: its pgmaps cannot be found") from error


def _truth(program: drgn.Program, address: int) -> RangeTruth:
    pgmap = drgn.Object(program, "struct dev_pagemap", address=address)
    if (ranges := pgmap.nr_range.value_()) != 1:
        raise HostFailure(f"the pgmap {address:#x} has {ranges} ranges: what to expect of them is not known to vmtests")
    values = {name: _member(pgmap, path) for name, path in PGMAP_FIELDS.items()}
    altmap = bool(values["flags"] & PGMAP_ALTMAP_VALID)
    first, end = pgmap.range.start.value_() >> PAGE_SHIFT, (pgmap.range.end.value_() + 1) >> PAGE_SHIFT
    return RangeTruth(
        start_pfn=first,
        nr_pages=end - first,
        pgmap=address,
        base_pfn=values["base_pfn"] if altmap else 0,
        reserve=values["reserve"] if altmap else 0,
        free=values["free"] if altmap else 0,
        altmap=altmap,
        type=values["type"],
        flags=values["flags"],
        vmemmap_shift=values["vmemmap_shift"],
    )


def _member(pgmap: drgn.Object, path: str) -> int:
    for name in path.split("."):
        pgmap = pgmap.member_(name)
    return int(pgmap.value_())
