"""The guest kernel's page tables, walked in bulk: which page of physical memory holds which page of the memmap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmtests.memmap.layout import PAGE_SHIFT, PAGE_SIZE

# Intel SDM volume 3A, 4.5: bits of an entry in 4-level and 5-level paging.
_PRESENT = 1 << 0
_LEAF = 1 << 7  # in levels 2 and 3
_ADDRESS = ((1 << 52) - 1) & ~((1 << 12) - 1)

#: In place of a physical address: nothing is mapped.
UNMAPPED = -1

Table = NDArray[np.uint64]


@dataclass(frozen=True)
class Window:
    """A range of kernel addresses and the physical address of each of its 4 KiB pages, or UNMAPPED."""

    start: int
    frames: NDArray[np.int64]

    @property
    def end(self) -> int:
        return self.start + len(self.frames) * PAGE_SIZE

    def slice(self, address: int, size: int) -> NDArray[np.int64]:
        """Return the frames of the pages that the range touches."""
        first = (address - self.start) >> PAGE_SHIFT
        last = (address + size - 1 - self.start) >> PAGE_SHIFT
        if not 0 <= first <= last < len(self.frames):
            raise ValueError(f"{address:#x} + {size:#x} is not in the window {self.start:#x} to {self.end:#x}")
        return self.frames[first : last + 1]


def walk(read_table: Callable[[int], bytes], top: bytes, levels: int, start: int, end: int) -> Window:
    """Return where the addresses from `start` to `end` are mapped.

    Args:
        read_table: returns the 4096 bytes of the table at a physical address.
        top: the top table's bytes.
        levels: 4 or 5.
        start, end: kernel addresses, widened to whole pages.
    """
    first = start & ~(PAGE_SIZE - 1)
    count = (end - first + PAGE_SIZE - 1) >> PAGE_SHIFT
    frames = np.full(count, UNMAPPED, dtype=np.int64)

    def descend(table: Table, level: int, base: int) -> None:
        """Fill in what `table`, whose first entry maps `base`, says of the range."""
        shift = PAGE_SHIFT + 9 * (level - 1)
        low = max(0, (first - base) >> shift)
        high = min(512, ((first + count * PAGE_SIZE - 1 - base) >> shift) + 1)
        if level == 1:
            entries = table[low:high]
            at = (base + (low << shift) - first) >> PAGE_SHIFT
            mapped = (entries & np.uint64(_ADDRESS)).astype(np.int64)
            frames[at : at + len(entries)] = np.where(entries & np.uint64(_PRESENT), mapped, UNMAPPED)
            return
        for index in range(low, high):
            entry = int(table[index])
            if not entry & _PRESENT:
                continue
            address = base + (index << shift)
            if level <= 3 and entry & _LEAF:
                physical = entry & _ADDRESS & ~((1 << shift) - 1)
                begin, stop = max(address, first), min(address + (1 << shift), first + count * PAGE_SIZE)
                at, pages = (begin - first) >> PAGE_SHIFT, (stop - begin) >> PAGE_SHIFT
                frames[at : at + pages] = physical + begin - address + np.arange(pages, dtype=np.int64) * PAGE_SIZE
            else:
                descend(_table(read_table(entry & _ADDRESS)), level - 1, address)

    top_shift = PAGE_SHIFT + 9 * levels
    # Kernel addresses are sign-extended: the top table maps the last 2^48 or 2^57 of them and the first.
    descend(_table(top), levels, first >> top_shift << top_shift)
    return Window(first, frames)


def _table(data: bytes) -> Table:
    return np.frombuffer(data, dtype="<u8")
