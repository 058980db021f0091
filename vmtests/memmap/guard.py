"""The struct pages just outside a range: a bind must leave them as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmtests.errors import HostFailure
from vmtests.memmap.access import Access
from vmtests.memmap.layout import PAGE_SHIFT, PAGE_SIZE, Role
from vmtests.memmap.pagetable import UNMAPPED
from vmtests.memmap.physical import PhysicalMemory
from vmtests.memmap.result import Example, Tally
from vmtests.memmap.truth import RangeTruth

#: Struct pages looked at on each side: those of a subsection, the least that can be plugged (mmzone.h:1980).
GUARD_PAGES = 512

#: A struct page as it was read; None where none is mapped.
Page = bytes | None


@dataclass(frozen=True)
class Neighbours:
    """The struct pages just before and just behind a range, as they were before a bind."""

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
    if was is not None and (was.first_pfn, was.end_pfn) != (truth.start_pfn, truth.end_pfn):
        raise HostFailure(
            f"the neighbours of pfn {was.first_pfn:#x} to {was.end_pfn:#x} were remembered, "
            f"the range is {truth.start_pfn:#x} to {truth.end_pfn:#x}"
        )
    seen = 0
    for first_pfn, old in (
        (truth.start_pfn - GUARD_PAGES, was.before if was else None),
        (truth.end_pfn, was.behind if was else None),
    ):
        now = _read(access, memory, first_pfn)
        seen += sum(page is not None for page in now)
        if old is None:
            _no_pgmap(access, now, first_pfn, truth, tally)
        else:
            _unchanged(access, old, now, first_pfn, tally)
    return seen


def _read(access: Access, memory: PhysicalMemory, first_pfn: int) -> tuple[Page, ...]:
    size = access.layout.size
    window = access.window(memory, first_pfn, first_pfn + GUARD_PAGES)
    data = bytearray(len(window.frames) * PAGE_SIZE)
    for index, frame in enumerate(window.frames.tolist()):
        if frame != UNMAPPED:
            memory.read_into(memoryview(data)[index << PAGE_SHIFT : (index + 1) << PAGE_SHIFT], frame)
    pages: list[Page] = []
    for pfn in range(first_pfn, first_pfn + GUARD_PAGES):
        address = access.vmemmap + pfn * size
        mapped = (window.slice(address, size) != UNMAPPED).all()
        pages.append(bytes(data[address - window.start : address - window.start + size]) if mapped else None)
    return tuple(pages)


def _no_pgmap(access: Access, now: Sequence[Page], first_pfn: int, truth: RangeTruth, tally: Tally) -> None:
    for pfn, page in enumerate(now, start=first_pfn):
        if page is not None and _field(access, page, "pgmap") == truth.pgmap:
            _outside(tally, pfn, [("pgmap", f"{truth.pgmap:#x}", "not this range's")])


def _unchanged(access: Access, old: Sequence[Page], now: Sequence[Page], first_pfn: int, tally: Tally) -> None:
    for pfn, (was, page) in enumerate(zip(old, now, strict=True), start=first_pfn):
        if was == page:
            continue
        if was is None or page is None:
            words = ("not mapped" if side is None else "mapped" for side in (page, was))
            _outside(tally, pfn, [("struct page", *words)])
        elif not _is_device(access, was):
            # A page of RAM is in use, so its struct page changes; only it must not become a device's.
            if _is_device(access, page):
                _outside(tally, pfn, [("zone", "ZONE_DEVICE", "that of RAM")])
        else:
            wrong = []
            for field in access.layout.named(Role.PAGE):
                values = [
                    int.from_bytes(side[field.offset : field.offset + field.size], "little") for side in (page, was)
                ]
                if values[0] != values[1]:
                    wrong.append((field.name, *(f"{value:#x}" for value in values)))
            _outside(tally, pfn, wrong)


def _is_device(access: Access, page: bytes) -> bool:
    """Tell whether a struct page says that its zone is ZONE_DEVICE."""
    layout = access.layout
    return _field(access, page, "flags") & layout.zone.ones == layout.zone.place(layout.zone_device)


def _field(access: Access, page: bytes, name: str) -> int:
    field = access.layout.field(Role.PAGE, name)
    assert field is not None, f"every layout has {name}"
    return int.from_bytes(page[field.offset : field.offset + field.size], "little")


def _outside(tally: Tally, pfn: int, wrong: Sequence[tuple[str, ...]]) -> None:
    """Count one page outside the range whose fields (name, got, wanted) are wrong."""
    tally.mismatches += 1
    for name, got, wanted in wrong:
        tally.add(f"{name} (outside the range)", 1, [Example(pfn, f"{name} (outside the range)", got, wanted)])
