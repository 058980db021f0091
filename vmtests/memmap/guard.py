"""The struct pages just outside a range: a bind must leave them as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vmtests.errors import HostFailure
from vmtests.memmap.access import Access
from vmtests.memmap.layout import PAGE_SIZE, Role
from vmtests.memmap.pagetable import UNMAPPED
from vmtests.memmap.physical import PhysicalMemory
from vmtests.memmap.result import Example, Tally
from vmtests.memmap.truth import RangeTruth

#: Struct pages looked at on each side: those of a subsection, the least that can be plugged (mmzone.h:1980).
GUARD_PAGES = 512

#: A page of the memmap as it was read; None where none was mapped.
Page = bytes | None


@dataclass(frozen=True)
class Neighbours:
    """The pages of the memmap just before and just behind a range, as they were before a bind."""

    first_pfn: int
    end_pfn: int
    before: tuple[Page, ...]
    behind: tuple[Page, ...]


def neighbours(access: Access, first_pfn: int, end_pfn: int) -> Neighbours:
    """Remember what lies around the range; call while its driver is not bound."""
    with access.memory() as memory:
        before, behind = (_read(access, memory, first) for first in (first_pfn - GUARD_PAGES, end_pfn))
    return Neighbours(first_pfn, end_pfn, before, behind)


def compare_neighbours(
    access: Access, memory: PhysicalMemory, truth: RangeTruth, was: Neighbours | None, tally: Tally
) -> int:
    """Compare what lies around the range with what was remembered; return how many struct pages there were to compare.

    Where nothing was remembered, what is mapped belongs to others, and so must not point at this range's pgmap.
    """
    if was is None:
        return sum(
            _no_pgmap(access, memory, truth, first, tally) for first in (truth.start_pfn - GUARD_PAGES, truth.end_pfn)
        )
    if (was.first_pfn, was.end_pfn) != (truth.start_pfn, truth.end_pfn):
        raise HostFailure(
            f"the neighbours of pfn {was.first_pfn:#x} to {was.end_pfn:#x} were remembered, "
            f"the range is {truth.start_pfn:#x} to {truth.end_pfn:#x}"
        )
    return sum(
        _unchanged(access, memory, first, old, tally)
        for first, old in ((truth.start_pfn - GUARD_PAGES, was.before), (truth.end_pfn, was.behind))
    )


def _read(access: Access, memory: PhysicalMemory, first_pfn: int) -> tuple[Page, ...]:
    frames = access.window(memory, first_pfn, first_pfn + GUARD_PAGES).frames.tolist()
    return tuple(None if frame == UNMAPPED else memory.read(frame, PAGE_SIZE) for frame in frames)


def _no_pgmap(access: Access, memory: PhysicalMemory, truth: RangeTruth, first_pfn: int, tally: Tally) -> int:
    size = access.layout.size
    pgmap = access.layout.field(Role.PAGE, "pgmap")
    assert pgmap is not None
    seen = 0
    for index, page in enumerate(_read(access, memory, first_pfn)):
        if page is None:
            continue
        seen += PAGE_SIZE // size
        words = np.frombuffer(page, dtype="<u8")[pgmap.offset // 8 :: size // 8]
        for row in np.flatnonzero(words == np.uint64(truth.pgmap)).tolist():
            pfn = first_pfn + index * (PAGE_SIZE // size) + row
            _outside(tally, pfn, [("pgmap", f"{truth.pgmap:#x}", "not this range's")])
    return seen


def _unchanged(access: Access, memory: PhysicalMemory, first_pfn: int, old: Sequence[Page], tally: Tally) -> int:
    size = access.layout.size
    fields = access.layout.named(Role.PAGE)
    seen = 0
    for index, (was, now) in enumerate(zip(old, _read(access, memory, first_pfn), strict=True)):
        pfn = first_pfn + index * (PAGE_SIZE // size)
        if was is None or now is None:
            if was is not now:
                words = ("not mapped" if page is None else "mapped" for page in (now, was))
                _outside(tally, pfn, [("struct page", *words)])
            continue
        seen += PAGE_SIZE // size
        for row in range(0, PAGE_SIZE if now != was else 0, size):
            wrong: list[tuple[str, ...]] = []
            if not _is_device(access, was[row : row + size]):
                # A page of RAM is in use, so its struct page changes; only it must not become a device's.
                if _is_device(access, now[row : row + size]):
                    wrong.append(("zone", "ZONE_DEVICE", "that of RAM"))
                _outside(tally, pfn + row // size, wrong)
                continue
            for field in fields:
                part = slice(row + field.offset, row + field.offset + field.size)
                if now[part] != was[part]:
                    wrong.append((field.name, *(f"{int.from_bytes(page[part], 'little'):#x}" for page in (now, was))))
            _outside(tally, pfn + row // size, wrong)
    return seen


def _is_device(access: Access, page: bytes) -> bool:
    """Tell whether a struct page says that its zone is ZONE_DEVICE."""
    layout = access.layout
    flags = layout.field(Role.PAGE, "flags")
    assert flags is not None
    word = int.from_bytes(page[flags.offset : flags.offset + flags.size], "little")
    return word & layout.zone.ones == layout.zone.place(layout.zone_device)


def _outside(tally: Tally, pfn: int, wrong: Sequence[tuple[str, ...]]) -> None:
    """Count one page outside the range whose fields (name, got, wanted) are wrong."""
    tally.mismatches += bool(wrong)
    for name, got, wanted in wrong:
        tally.add(f"{name} (outside the range)", 1, [Example(pfn, f"{name} (outside the range)", got, wanted)])
