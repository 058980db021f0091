"""The check of one range's whole memmap after one bind: what must be there is built first, then read in bulk."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vmtests.errors import HostFailure
from vmtests.memmap.access import Access
from vmtests.memmap.compare import Reader, compare, pieces
from vmtests.memmap.expected import Expected, Segment, expected
from vmtests.memmap.guard import Neighbours, compare_neighbours
from vmtests.memmap.layout import PAGE_SHIFT, PAGE_SIZE, PageLayout, Role
from vmtests.memmap.pagetable import UNMAPPED, Window
from vmtests.memmap.physical import PhysicalMemory
from vmtests.memmap.poison import Poison
from vmtests.memmap.result import EXAMPLES, Example, MemmapResult, Tally
from vmtests.memmap.sections import Sections
from vmtests.memmap.truth import RangeTruth


def check(
    access: Access,
    truth: RangeTruth,
    *,
    node: int,
    poison: Poison | None = None,
    before: Neighbours | None = None,
    limit: int = EXAMPLES,
) -> MemmapResult:
    """Compare every byte of every struct page of the range, and what lies around it, with what must be there.

    Args:
        access: attached to the guest, the driver bound, nothing using the namespace.
        truth: what the bind's probe saw.
        node: the NUMA node of the device, as `access.node_of` tells it.
        poison: what was overwritten before this bind, if it was.
        before: the struct pages around the range before the bind.
        limit: how many examples to keep.

    Raises:
        HostFailure: what must be there is not known, or the memory cannot be read. A wrong memmap is no exception but
            in the result.
    """
    begun = time.monotonic()
    layout = access.layout
    access.confirm(truth)
    sections = access.sections(truth.start_pfn, truth.end_pfn)
    facts = access.facts(sections, node)
    want = expected(truth, layout, facts)
    tally = Tally(limit, range(truth.start_pfn, truth.end_pfn))
    with access.memory() as memory:
        window = access.window(memory, truth.start_pfn, truth.end_pfn)
        _readable(memory, window)
        segments = [*([want.reserve] if want.reserve else []), *want.pages]
        _frames(window, segments, truth, layout, facts.vmemmap, tally)
        seen = [compare(memory, window, part, layout, facts.vmemmap, tally) for part in segments]
        reserve_seen = seen.pop(0) if want.reserve else 0
        if poison is not None:
            _control(memory, window, want.untouched, layout, facts.vmemmap, poison, tally)
        around = compare_neighbours(access, memory, truth, before, tally)
        blocks = _pageblocks(sections, want, tally)
        seconds = time.monotonic() - begun
        limit_seconds = _sum(memory, window, segments, layout, facts.vmemmap)
    return MemmapResult(
        pages_expected=truth.pages,
        pages_checked=sum(seen),
        reserve_expected=want.reserve.pages if want.reserve else 0,
        reserve_checked=reserve_seen,
        bytes_per_page_checked=layout.size,
        pageblocks_checked=blocks,
        neighbours_checked=around,
        poisoned=poison is not None,
        pages_poisoned=_poisoned(window, truth, layout, facts.vmemmap, poison),
        mismatches=tally.mismatches,
        histogram=dict(tally.histogram),
        examples=tally.examples(),
        seconds=seconds,
        read_limit_seconds=limit_seconds,
        wrong_fields=tally.wrong_fields(),
    )


def _readable(memory: PhysicalMemory, window: Window) -> None:
    outside = window.frames[(window.frames != UNMAPPED) & ~memory.contains(window.frames)]
    if len(outside):
        raise HostFailure(
            f"{len(outside)} pages of the memmap lie in no file of the host, the first at guest physical address "
            f"{int(outside[0]):#x}: the guest's memory must all be memory-backend-file,share=on"
        )


def _frames(
    window: Window,
    segments: Sequence[Segment],
    truth: RangeTruth,
    layout: PageLayout,
    vmemmap: int,
    tally: Tally,
) -> None:
    """See which memory the memmap lies in: shared exactly where tails may be, never in the namespace's own data."""
    per_frame = PAGE_SIZE // layout.size
    if PAGE_SIZE % layout.size:
        return  # a frame belongs to no one struct page, and tails are never shared (include/linux/mm.h:5199)
    owned = np.zeros(len(window.frames), dtype=bool)
    for segment in segments:
        first = (vmemmap + segment.first_pfn * layout.size - window.start) >> PAGE_SHIFT
        count = -(-segment.pages // per_frame)
        if segment.stored == segment.stride:
            owned[first : first + count] = True
            continue
        step, own = segment.stride // per_frame, segment.stored // per_frame
        units = window.frames[first : first + count].reshape(segment.units, step)
        owned[first : first + count].reshape(segment.units, step)[:, :own] = True
        unit, page = np.nonzero(units[:, own:] != units[:, own - 1 : own])
        _wrong_frames(
            tally,
            "memmap frame (shared tails)",
            segment.first_pfn + unit * segment.stride + (own + page) * per_frame,
            units[unit, own + page],
            per_frame,
            "the frame of the folio's last tail of its own",
        )
    first_pfn = (window.start - vmemmap) // layout.size
    places = np.flatnonzero(owned & (window.frames != UNMAPPED))
    frames = window.frames[places]
    _, index, counts = np.unique(frames, return_index=True, return_counts=True)
    twice = places[np.isin(frames, frames[index[counts > 1]])] if (counts > 1).any() else places[:0]
    data = places[(frames >= truth.first_pfn << PAGE_SHIFT) & (frames < truth.end_pfn << PAGE_SHIFT)]
    for name, wrong, wanted in (
        ("memmap frame (used twice)", twice, "a frame of its own"),
        ("memmap frame (in the data)", data, "outside the namespace's data"),
    ):
        _wrong_frames(tally, name, first_pfn + wrong * per_frame, window.frames[wrong], per_frame, wanted)


def _wrong_frames(
    tally: Tally, name: str, pfns: NDArray[np.int64], frames: NDArray[np.int64], per_frame: int, wanted: str
) -> None:
    """Count the struct pages of wrong frames; `pfns` are the first ones of each."""
    if len(pfns):
        count = len(pfns) * per_frame
        shown = zip(pfns[: tally.limit].tolist(), frames[: tally.limit].tolist(), strict=True)
        tally.mismatches += count
        tally.add(
            name,
            count,
            [Example(pfn, name, f"{frame:#x}", wanted) for pfn, frame in shown],
            pfns,
            np.full(len(pfns), per_frame),
        )


def _control(
    memory: PhysicalMemory,
    window: Window,
    untouched: range,
    layout: PageLayout,
    vmemmap: int,
    poison: Poison,
    tally: Tally,
) -> None:
    """See that the struct pages that nobody initialises still hold the poison: it was there, and nobody wrote them.

    A CONFIG_DEBUG_VM kernel has overwritten all struct pages itself (page_init_poison(), mm/sparse-vmemmap.c:906).
    """
    for pfn in untouched:
        address = vmemmap + pfn * layout.size
        frames = window.slice(address, layout.size)
        if (frames == UNMAPPED).any() or not poison.keeps(frames).all():
            continue
        got = memory.read(int(frames[0]) + address % PAGE_SIZE, layout.size)
        wanted = poison.pattern * layout.size
        if got == wanted or (layout.debug_vm and got == b"\xff" * layout.size):
            continue
        tally.mismatches += 1
        for field in layout.named(Role.PAGE):
            part = slice(field.offset, field.offset + field.size)
            if got[part] != wanted[part]:
                name = f"{field.name} (untouched page)"
                values = [f"{int.from_bytes(data[part], 'little'):#x}" for data in (got, wanted)]
                tally.add(name, 1, [Example(pfn, name, *values)])


def _pageblocks(sections: Sections, want: Expected, tally: Tally) -> int:
    """Compare the bits of every pageblock, as far as they can be told."""
    for pfn, wanted, mask in want.pageblocks:
        got = sections.block(pfn) & mask
        if got != wanted & mask:
            tally.mismatches += 1
            tally.add("pageblock", 1, [Example(pfn, "pageblock", f"{got:#x}", f"{wanted & mask:#x}")])
    return sum(mask != 0 for _, _, mask in want.pageblocks)


def _poisoned(window: Window, truth: RangeTruth, layout: PageLayout, vmemmap: int, poison: Poison | None) -> int:
    """Return how many struct pages to be initialised lie in memory that was overwritten before the bind."""
    if poison is None:
        return 0
    frames = window.slice(vmemmap + truth.first_pfn * layout.size, truth.pages * layout.size)
    return int(np.count_nonzero(poison.covers(frames))) * PAGE_SIZE // layout.size


def _sum(
    memory: PhysicalMemory, window: Window, segments: Sequence[Segment], layout: PageLayout, vmemmap: int
) -> float:
    """Return the seconds that merely reading and summing the same bytes takes: the limit for any check."""
    begun = time.monotonic()
    for segment in segments:
        reader = Reader(memory, window, segment, layout, vmemmap)
        for piece in pieces(segment, layout.size):
            reader.read(piece)[0].sum()
    return time.monotonic() - begun
