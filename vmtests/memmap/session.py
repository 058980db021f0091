"""A kernel that somebody looks into by hand with drgn: its ranges, its pgmaps, its struct pages, and the check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import drgn
from drgn.helpers.linux.mm import pfn_to_page

from vmtests.errors import UsageError
from vmtests.memmap.known import Known
from vmtests.memmap.pgmap import truths
from vmtests.memmap.result import MemmapResult
from vmtests.memmap.truth import RangeTruth


@dataclass(frozen=True, repr=False)
class Range:
    """A ZONE_DEVICE range as the kernel has it now.

    Attributes:
        name: the namespace's kind and device, as far as anybody has told.
        truth: its pgmap's numbers.
        pgmap: the struct dev_pagemap, by its address.
    """

    name: str
    truth: RangeTruth
    pgmap: drgn.Object

    @property
    def pfns(self) -> range:
        """The pages whose struct pages memmap_init_zone_device() initialises: the altmap's are in front of them."""
        return range(self.truth.first_pfn, self.truth.end_pfn)

    def __repr__(self) -> str:
        truth = self.truth
        altmap = f", altmap from {truth.start_pfn:#x}" if truth.altmap else ""
        folios = f", folios of order {truth.vmemmap_shift}" if truth.vmemmap_shift else ""
        pfns = f"pfn {truth.first_pfn:#x} to {truth.end_pfn:#x}, {truth.pages:,} pages"
        return f"<{self.name}: {pfns}{altmap}{folios}, pgmap {truth.pgmap:#x}>"


@dataclass(frozen=True)
class Session:
    """A guest or a dump that is open in drgn.

    Attributes:
        title: what it is, for people.
        program: drgn's view of its kernel.
        known: what was told about its memmaps.
        checks: looks at every struct page of them.
    """

    title: str
    program: drgn.Program
    known: tuple[Known, ...]
    checks: Callable[[], Iterable[tuple[Known, MemmapResult]]]

    def ranges(self) -> tuple[Range, ...]:
        """Return every range that has a pgmap now, in order of address."""
        names = {known.truth.start_pfn: str(known) for known in self.known}
        return tuple(
            Range(
                names.get(truth.start_pfn, "unknown"),
                truth,
                drgn.Object(self.program, "struct dev_pagemap *", truth.pgmap),
            )
            for truth in truths(self.program)
        )

    def page(self, pfn: int) -> drgn.Object:
        """Return the struct page of a page, as `struct page *`.

        Raises:
            UsageError: no memory has this pfn.
        """
        if not 0 <= pfn < 1 << 40:
            raise UsageError(f"{pfn:#x} is no pfn: it is the physical address divided by 4096")
        return pfn_to_page(self.program, pfn)
