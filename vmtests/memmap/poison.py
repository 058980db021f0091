"""Overwriting the memory that a memmap will lie in, before a bind.

The kernel never clears that memory (memory of an altmap is used as it is found, mm/sparse-vmemmap.c:104-138 in 7.3.4),
so after a rebind a struct page that was forgotten still holds the last bind's right value, and in a fresh file a
forgotten zero looks right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmtests.errors import HostFailure
from vmtests.memmap.layout import PAGE_SHIFT, PAGE_SIZE, PageLayout
from vmtests.memmap.physical import PhysicalMemory

#: No field of a right struct page is made of it: as flags, a pointer, a count it is wrong, and its low bit says "tail".
PATTERN = b"\xa5"

#: An altmap's first block of memmap lies here: behind its 2 reserved pages, aligned to 2 MiB (sparse-vmemmap.c:98-138).
ALTMAP_START = 2 << 20

_BLOCK = 4 << 20


@dataclass(frozen=True)
class Poison:
    """What was overwritten: guest physical addresses, as sorted, disjoint ranges of whole pages.

    Args:
        pattern: the byte.
        starts, ends: the ranges.
        by_kernel: the kernel's own switch that overwrites all memory that it hands out; then there is no need for ours.
        free: for each range, whether it was free memory of the guest, which may hand it out and get it back before the
            bind; then a struct page that nobody initialises need not hold the pattern any more. None: no range was.
    """

    pattern: bytes
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    by_kernel: str | None = None
    free: NDArray[np.bool_] | None = None

    def covers(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each page at these addresses whether it was overwritten."""
        if self.by_kernel is not None or not len(self.starts):
            return np.full(len(frames), self.by_kernel is not None)
        return self._inside(frames, self._index(frames))

    def keeps(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each page whether it must still hold the pattern where the bind has not written."""
        if not len(self.starts):
            return np.zeros(len(frames), dtype=bool)
        index = self._index(frames)
        inside = self._inside(frames, index)
        return inside if self.free is None else inside & ~self.free[index]

    def _index(self, frames: NDArray[np.int64]) -> NDArray[np.intp]:
        return np.maximum(np.searchsorted(self.starts, frames, side="right") - 1, 0)

    def _inside(self, frames: NDArray[np.int64], index: NDArray[np.intp]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (frames >= self.starts[index]) & (frames + PAGE_SIZE <= self.ends[index])
        return inside

    def and_also(self, other: Poison) -> Poison:
        """Return both: this one's ranges and the other's."""
        order = np.argsort(np.concatenate((self.starts, other.starts)))
        starts = np.concatenate((self.starts, other.starts))[order]
        ends = np.concatenate((self.ends, other.ends))[order]
        free = np.concatenate([_each(one) for one in (self, other)])[order]
        return Poison(self.pattern, starts, ends, self.by_kernel or other.by_kernel, free)


def _each(one: Poison) -> NDArray[np.bool_]:
    return np.zeros(len(one.starts), dtype=bool) if one.free is None else one.free


def altmap_area(start: int, end: int, layout: PageLayout) -> tuple[int, int]:
    """Return where the memmap of a map=dev namespace will lie: guest physical addresses, first and end.

    Args:
        start, end: guest physical addresses of the namespace.
        layout: of struct page.
    """
    size = ((end - start) >> PAGE_SHIFT) * layout.size
    return start + ALTMAP_START, start + ALTMAP_START + -(-size // ALTMAP_START) * ALTMAP_START


def poison(memory: PhysicalMemory, first: int, end: int, pattern: bytes = PATTERN) -> Poison:
    """Overwrite the guest's memory from the physical address `first` to `end`; nothing in the guest may use it.

    Args:
        memory: entered, writable.
        first, end: whole pages, such as `altmap_area` returns. The namespace's info block is in front of that.
        pattern: one byte.
    """
    if first % PAGE_SIZE or end % PAGE_SIZE or not first < end or len(pattern) != 1:
        raise ValueError(f"not whole pages, or not one byte: {first:#x} to {end:#x}, {pattern!r}")
    block = memoryview(pattern * _BLOCK)
    for address in range(first, end, _BLOCK):
        memory.write(address, block[: min(_BLOCK, end - address)])
    if memory.read(end - PAGE_SIZE, PAGE_SIZE) != pattern * PAGE_SIZE:
        raise HostFailure(f"the guest's memory at {end - PAGE_SIZE:#x} does not hold what was just written there")
    return Poison(pattern, np.array([first], dtype=np.int64), np.array([end], dtype=np.int64))
