"""The second oracle: the same bind on two kernels must leave the same memmap, byte for byte.

What differs rightly is replaced by what it points at: the pgmap's address by a mark, an address in the memmap by its
distance from the block that holds it. So equal blocks are kept once, and a memmap of 1.6 GB takes a few of them.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vmtests.errors import HostFailure, KernelFailure
from vmtests.memmap.access import Access
from vmtests.memmap.layout import PAGE_SIZE, PageLayout, Role
from vmtests.memmap.pagetable import UNMAPPED
from vmtests.memmap.result import EXAMPLES, Example
from vmtests.memmap.truth import RangeTruth

#: Struct pages of a block: those of a section, so that folios of 2 MiB lie alike in all of them.
BLOCK_PAGES = 1 << 15

#: No kernel pointer and no count: the mark for the pgmap's address.
PGMAP_MARK = np.uint64(0x7067_6D61_7070_6167)

#: Different blocks that are kept whole; of further ones only a hash is kept.
KEPT = 512


@dataclass(frozen=True)
class Digest:
    """A memmap, normalised. The pages that nobody initialises are left out (as zeros).

    Args:
        size: sizeof(struct page).
        start_pfn: the range's first page; blocks count from there.
        pages: the range's pages.
        blocks: hash of each block.
        contents: blocks by hash, compressed.
        pageblocks: the bits of each pageblock.
    """

    size: int
    start_pfn: int
    pages: int
    blocks: tuple[str, ...]
    contents: dict[str, bytes]
    pageblocks: bytes

    def save(self, path: Path) -> None:
        """Write the digest to a file: an .npz of a few kB."""
        names = sorted(self.contents)
        lengths = [len(self.contents[name]) for name in names]
        with path.open("wb") as handle:
            np.savez(
                handle,
                head=np.array([self.size, self.start_pfn, self.pages], dtype=np.int64),
                blocks=np.array(self.blocks, dtype="U32"),
                names=np.array(names, dtype="U32"),
                lengths=np.array(lengths, dtype=np.int64),
                data=np.frombuffer(b"".join(self.contents[name] for name in names), dtype=np.uint8),
                pageblocks=np.frombuffer(self.pageblocks, dtype=np.uint8),
            )

    @classmethod
    def load(cls, path: Path) -> Digest:
        """Read what `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                ends = np.cumsum(stored["lengths"]).tolist()
                data = stored["data"].tobytes()
                contents = {
                    name: data[end - length : end]
                    for name, end, length in zip(
                        stored["names"].tolist(), ends, stored["lengths"].tolist(), strict=True
                    )
                }
                size, start_pfn, pages = stored["head"].tolist()
                blocks, pageblocks = tuple(stored["blocks"].tolist()), stored["pageblocks"].tobytes()
        except (OSError, ValueError, KeyError) as error:
            raise HostFailure(f"{path} is not a memmap digest: {error}") from error
        return cls(size, start_pfn, pages, blocks, contents, pageblocks)


@dataclass(frozen=True)
class Difference:
    """What two kernels' memmaps of one range differ in."""

    pages_compared: int
    mismatches: int
    examples: tuple[Example, ...] = field(default=())

    def verify(self, what: str) -> None:
        """Raise a KernelFailure about `what`, such as the two kernels, unless they are the same."""
        if self.mismatches:
            raise KernelFailure(
                f"the memmaps differ ({what}): {self.mismatches} of {self.pages_compared} struct pages or pageblocks",
                output="\n".join(
                    f"pfn {one.pfn:#x}: {one.field} is {one.wanted} by the first, {one.got} by the second kernel"
                    for one in self.examples
                ),
            )


def digest(access: Access, truth: RangeTruth) -> Digest:
    """Read the memmap of the whole range, the altmap's pages too, and return it normalised.

    Raises:
        HostFailure: a part of it is not mapped, or cannot be read.
    """
    size = access.layout.size
    start = access.vmemmap + truth.start_pfn * size
    contents: dict[str, bytes] = {}
    blocks: list[str] = []
    with access.memory() as memory:
        window = access.window(memory, truth.start_pfn, truth.end_pfn)
        if (window.frames == UNMAPPED).any():
            raise HostFailure("a part of the memmap is not mapped: it cannot be compared")
        for first in range(0, truth.nr_pages, BLOCK_PAGES):
            pages = min(BLOCK_PAGES, truth.nr_pages - first)
            address = start + first * size
            frames = window.slice(address, pages * size)
            buffer = bytearray(len(frames) * PAGE_SIZE)
            memory.read_frames(memoryview(buffer), frames)
            words = np.frombuffer(buffer, dtype="<u8", count=pages * size // 8, offset=address % PAGE_SIZE)
            normal = normalise(words, truth, address, (start, start + truth.nr_pages * size))
            if first == 0 and truth.altmap:
                normal[: truth.reserve * size // 8] = 0
            data = normal.tobytes()
            name = hashlib.sha256(data).hexdigest()[:32]
            if name not in contents and len(contents) < KEPT:
                contents[name] = zlib.compress(data, 1)
            blocks.append(name)
    sections = access.sections(truth.start_pfn, truth.end_pfn)
    bits = sections.block_range(truth.start_pfn, truth.end_pfn).tobytes()
    return Digest(size, truth.start_pfn, truth.nr_pages, tuple(blocks), contents, bits)


def normalise(
    words: NDArray[np.uint64], truth: RangeTruth, address: int, memmap: tuple[int, int]
) -> NDArray[np.uint64]:
    """Return the words of a block that lies at `address`, with the pointers replaced by what they point at.

    Args:
        words: of whole struct pages.
        truth: for the pgmap's address.
        address: the kernel's address of the first word.
        memmap: the addresses of the range's memmap, first and end.
    """
    low, high = np.uint64(memmap[0]), np.uint64(memmap[1])
    inside = (words >= low) & (words < high)
    normal = np.where(inside, words - np.uint64(address), words)
    normal[words == np.uint64(truth.pgmap)] = PGMAP_MARK
    return normal


def compare(base: Digest, patched: Digest, layout: PageLayout, limit: int = EXAMPLES) -> Difference:
    """Compare two digests of the same namespace.

    Raises:
        HostFailure: they are of different ranges or layouts, so that nothing can be compared.
    """
    for name in ("size", "start_pfn", "pages"):
        if getattr(base, name) != getattr(patched, name):
            raise HostFailure(
                f"the two memmaps have {name} {getattr(base, name)} and {getattr(patched, name)}: "
                "they are not of the same range and layout"
            )
    examples: list[Example] = []
    mismatches = 0
    for index, (left, right) in enumerate(zip(base.blocks, patched.blocks, strict=True)):
        if left == right:
            continue
        first_pfn = base.start_pfn + index * BLOCK_PAGES
        if left not in base.contents or right not in patched.contents:
            mismatches += min(BLOCK_PAGES, base.pages - index * BLOCK_PAGES)
            examples.append(Example(first_pfn, "block of struct pages", right, left))
            continue
        pair = [
            np.frombuffer(zlib.decompress(side), dtype="<u8").reshape(-1, base.size // 8)
            for side in (base.contents[left], patched.contents[right])
        ]
        rows = np.flatnonzero((pair[0] != pair[1]).any(axis=1))
        mismatches += len(rows)
        for row in rows[: max(0, limit - len(examples))].tolist():
            examples += _fields(first_pfn + row, pair[0][row].tobytes(), pair[1][row].tobytes(), layout)
    first_block = base.start_pfn >> layout.pageblocks.order
    for index, (one, other) in enumerate(zip(base.pageblocks, patched.pageblocks, strict=True)):
        if one != other:
            mismatches += 1
            pfn = (first_block + index) << layout.pageblocks.order
            examples.append(Example(pfn, "pageblock", f"{other:#x}", f"{one:#x}"))
    return Difference(base.pages, mismatches, tuple(sorted(examples)[:limit]))


def _fields(pfn: int, base: bytes, patched: bytes, layout: PageLayout) -> list[Example]:
    return [
        Example(pfn, item.name, *(f"{int.from_bytes(side[part], 'little'):#x}" for side in (patched, base)))
        for item in layout.named(Role.PAGE)
        if base[part := slice(item.offset, item.offset + item.size)] != patched[part]
    ]
