"""The pgmap of a range as the kernel keeps it, for a kernel that cannot be probed: the second best truth.

pgmap_array (mm/memremap.c:26 in 7.3.4) has each pgmap under the pfns of its range. It says what the range is now, not
what memmap_init_zone_device() was called with.
"""

from __future__ import annotations

import drgn
from drgn.helpers.linux.xarray import xa_for_each

from vmtests.errors import HostFailure
from vmtests.memmap.debuginfo import PGMAP_FIELDS
from vmtests.memmap.layout import PAGE_SHIFT
from vmtests.memmap.truth import PGMAP_ALTMAP_VALID, RangeTruth


def truths(program: drgn.Program) -> tuple[RangeTruth, ...]:
    """Return the range of every pgmap of the running kernel, in order of address.

    Raises:
        HostFailure: the debug info does not tell, or a pgmap has several ranges.
    """
    try:
        array = program["pgmap_array"]
    except KeyError as error:
        raise HostFailure("the kernel's debug info has no pgmap_array: its pgmaps cannot be found") from error
    found = {entry.value_(): index for index, entry in xa_for_each(array.address_of_())}
    return tuple(_truth(program, address) for address in sorted(found, key=found.__getitem__))


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
