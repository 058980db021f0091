"""The truth about one bind: what memmap_init_zone_device() was called with, from a probe in the guest.

Everything else about a memmap is judged by these numbers, so that no part of the check trusts what it checks.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmtests.errors import KernelFailure

#: include/linux/memremap.h: the pgmap's `flags` bit that says its altmap holds something.
PGMAP_ALTMAP_VALID = 1 << 0


@dataclass(frozen=True)
class RangeTruth:
    """The arguments of one call of memmap_init_zone_device() and the fields of its pgmap; pfns and counts of pages.

    Raises:
        KernelFailure: numbers that no correct caller passes.
        ValueError: numbers that no reading of a probe can give: a bug of ours.
    """

    start_pfn: int  # its start_pfn argument: the whole range, the altmap's pages included
    nr_pages: int  # its nr_pages argument
    pgmap: int  # address of the struct dev_pagemap
    base_pfn: int  # altmap.base_pfn; this and the next two are 0 without an altmap
    reserve: int  # altmap.reserve: pages for the driver's own use, such as the info block
    free: int  # altmap.free: pages set aside for the memmap
    altmap: bool  # the memmap lives in the range itself (map=dev)
    type: int  # enum memory_type
    flags: int
    vmemmap_shift: int  # order of the folios

    def __post_init__(self) -> None:
        if self.altmap != bool(self.flags & PGMAP_ALTMAP_VALID):
            raise ValueError(f"altmap is {self.altmap}, but the pgmap's flags are {self.flags:#x}")
        if not self.altmap and (self.base_pfn or self.reserve or self.free):
            raise ValueError("a range without altmap has altmap fields")
        if self.nr_pages <= 0 or self.start_pfn < 0 or not 0 < self.pgmap < 1 << 64:
            raise ValueError(f"not the arguments of a call: {self}")
        if self.altmap and self.base_pfn != self.start_pfn:
            raise KernelFailure(
                f"the altmap begins at pfn {self.base_pfn:#x}, the range that it belongs to at {self.start_pfn:#x}"
            )
        if self.first_pfn >= self.end_pfn:
            raise KernelFailure(
                f"the altmap's {self.reserve} + {self.free} pages leave nothing of the range's {self.nr_pages}"
            )

    @property
    def first_pfn(self) -> int:
        """The first page that the function initialises (mm/mm_init.c:1095-1098 in 7.3.4)."""
        return self.base_pfn + self.reserve + self.free if self.altmap else self.start_pfn

    @property
    def end_pfn(self) -> int:
        """The page behind the last."""
        return self.start_pfn + self.nr_pages

    @property
    def pages(self) -> int:
        """How many pages the function initialises, as its pr_debug() line counts them."""
        return self.end_pfn - self.first_pfn

    @property
    def reserve_pages(self) -> int:
        """How many pages of the range lie before the first one that the function initialises."""
        return self.first_pfn - self.start_pfn

    def confirm(self, *, printed_pages: int | None = None, resource: int | None = None) -> None:
        """Hold the probe against the other witnesses.

        Args:
            printed_pages: the count in the function's pr_debug() line.
            resource: the guest physical address where the namespace's data begin, from sysfs.

        Raises:
            KernelFailure: they contradict each other.
        """
        if printed_pages is not None and printed_pages != self.pages:
            raise KernelFailure(
                f"memmap_init_zone_device() says it initialised {printed_pages} pages, "
                f"its arguments mean {self.pages} (pfn {self.first_pfn:#x} to {self.end_pfn:#x})"
            )
        if resource is not None and resource != self.first_pfn << 12:
            raise KernelFailure(
                f"the namespace's data begin at {resource:#x} by sysfs, "
                f"the first page that got a struct page of theirs is pfn {self.first_pfn:#x}"
            )
