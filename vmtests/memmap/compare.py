"""Comparing a segment of a memmap with what it must hold, in blocks of a few MiB, and naming what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmtests.errors import HostFailure
from vmtests.memmap.expected import Run, Segment
from vmtests.memmap.layout import PAGE_SHIFT, PAGE_SIZE, Field, PageLayout, Role
from vmtests.memmap.pagetable import UNMAPPED, Window
from vmtests.memmap.physical import PhysicalMemory
from vmtests.memmap.result import Example, Tally

#: Bytes compared at a time: small enough to stay in the last level cache between reading and comparing.
BLOCK = 2 << 20

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Piece:
    """Struct pages `first` to `end` of the units `unit` to `unit + units` of a segment: what one block holds."""

    unit: int
    units: int
    first: int
    end: int

    @property
    def pages(self) -> int:
        return self.units * (self.end - self.first)


def pieces(segment: Segment, size: int, block: int = BLOCK) -> Iterator[Piece]:
    """Cut a segment into blocks: of whole units where they fit, else of parts of one unit."""
    stored = segment.stored
    if stored * size <= block:
        step = block // (stored * size)
        for unit in range(0, segment.units, step):
            yield Piece(unit, min(step, segment.units - unit), 0, stored)
    else:
        step = block // size
        for unit in range(segment.units):
            for first in range(0, stored, step):
                yield Piece(unit, 1, first, min(first + step, stored))


class Reader:
    """Reads the pieces of one segment into a buffer that is used again and again."""

    def __init__(
        self, memory: PhysicalMemory, window: Window, segment: Segment, layout: PageLayout, vmemmap: int
    ) -> None:
        self._memory = memory
        self._segment = segment
        self._size = layout.size
        self._address = vmemmap + segment.first_pfn * layout.size
        self._stride = segment.stride * layout.size
        self._buffer = bytearray(0)
        if segment.stored != segment.stride and (self._address % PAGE_SIZE or segment.stored * layout.size % PAGE_SIZE):
            raise HostFailure("folios whose tails share memory do not begin at a page of the memmap")
        self._frames = window.slice(self._address, (segment.units - 1) * self._stride + segment.stored * layout.size)

    def read(self, piece: Piece) -> tuple[Words, NDArray[np.bool_] | None]:
        """Return the words of the piece, (units, pages, words), and which struct pages are not mapped, if any.

        The array is only good until the next call.
        """
        frames, skip = self._locate(piece)
        if len(self._buffer) < len(frames) * PAGE_SIZE:
            self._buffer = bytearray(len(frames) * PAGE_SIZE)
        view = memoryview(self._buffer)[: len(frames) * PAGE_SIZE]
        unmapped = frames == UNMAPPED
        unseen = None
        if unmapped.any():
            mapped = np.flatnonzero(~unmapped)
            for index in mapped.tolist():
                self._memory.read_into(view[index * PAGE_SIZE : (index + 1) * PAGE_SIZE], int(frames[index]))
            first = (np.arange(piece.pages) * self._size + skip) >> PAGE_SHIFT
            last = (np.arange(1, piece.pages + 1) * self._size + skip - 1) >> PAGE_SHIFT
            unseen = (unmapped[first] | unmapped[last]).reshape(piece.units, -1)
        else:
            self._memory.read_frames(view, frames)
        count = piece.pages * self._size // 8
        words = np.frombuffer(self._buffer, dtype="<u8", count=count, offset=skip)
        return words.reshape(piece.units, piece.end - piece.first, self._size // 8), unseen

    def _locate(self, piece: Piece) -> tuple[NDArray[np.int64], int]:
        """Return the frames to read, and where in them the piece begins."""
        if self._segment.stored == self._segment.stride:  # one range of addresses
            begin = self._address % PAGE_SIZE + piece.unit * self._stride + piece.first * self._size
            end = begin + piece.pages * self._size
            return self._frames[begin >> PAGE_SHIFT : (end + PAGE_SIZE - 1) >> PAGE_SHIFT], begin % PAGE_SIZE
        step = self._stride // PAGE_SIZE
        own = self._segment.stored * self._size // PAGE_SIZE
        starts = np.arange(piece.unit, piece.unit + piece.units) * step
        inside = np.arange(own)[piece.first * self._size // PAGE_SIZE : piece.end * self._size // PAGE_SIZE]
        return self._frames[(starts[:, None] + inside).reshape(-1)], 0


class Image:
    """The expected words of pieces of one shape, made once and only moved on to the next units."""

    def __init__(self, segment: Segment, piece: Piece) -> None:
        self.runs: list[tuple[Run, slice]] = []
        parts = []
        at = 0
        for run in segment.runs:
            low, high = max(at, piece.first), min(at + run.count, piece.end)
            if low < high:
                self.runs.append((run, slice(low - piece.first, high - piece.first)))
                parts.append(np.tile(np.frombuffer(run.content, dtype="<u8"), (high - low, 1)))
            at += run.count
        self._words: Words = np.tile(np.concatenate(parts), (piece.units, 1, 1))
        self._relative = [(run, part) for run, part in self.runs if run.relative]

    def at(self, address: int, stride: int, units: int) -> Words:
        """Return the words of `units` units, the first at `address`, `stride` bytes from one to the next."""
        if self._relative:
            addresses = np.uint64(address) + np.arange(units, dtype=np.uint64) * np.uint64(stride)
            for run, part in self._relative:
                for offset, addend in run.relative:
                    self._words[:units, part, offset // 8] = (addresses + np.uint64(addend))[:, None]
        return self._words[:units]


def compare(
    memory: PhysicalMemory,
    window: Window,
    segment: Segment,
    layout: PageLayout,
    vmemmap: int,
    tally: Tally,
) -> int:
    """Compare every struct page of the segment, count and name what differs, and return how many pages were seen.

    Struct pages that share the memory of another are wrong where that one is, and are seen with it.
    """
    reader = Reader(memory, window, segment, layout, vmemmap)
    images: dict[tuple[int, int], Image] = {}
    seen = 0
    sharers = sharers_of(segment, layout.size)
    for piece in pieces(segment, layout.size):
        shape = (piece.first, piece.end)
        if shape not in images:
            images[shape] = Image(segment, piece)
        image = images[shape]
        got, unseen = reader.read(piece)
        first_pfn = segment.first_pfn + piece.unit * segment.stride
        wanted = image.at(vmemmap + first_pfn * layout.size, segment.stride * layout.size, piece.units)
        seen += piece.pages
        if unseen is not None:
            lost = np.argwhere(unseen)
            seen -= len(lost)
            pfns = first_pfn + lost[:, 0] * segment.stride + piece.first + lost[:, 1]
            shown = [Example(pfn, "struct page", "not mapped", "mapped") for pfn in pfns[: tally.limit].tolist()]
            tally.add("struct page", len(lost), shown, pfns)
            got = np.where(unseen[:, :, None], wanted, got)
        if not np.array_equal(got, wanted):
            _name(got, wanted, image, segment, piece, layout, sharers, tally)
    shared = segment.stride - segment.stored
    return seen + shared * segment.units if seen == segment.units * segment.stored else seen


def sharers_of(segment: Segment, size: int) -> tuple[int, int]:
    """Return the first struct page of a unit whose memory others share, and the distance from it to those."""
    if segment.stored == segment.stride:
        return segment.stride, 0
    per_page = PAGE_SIZE // size
    return segment.stored - per_page, per_page


def _name(
    got: Words,
    wanted: Words,
    image: Image,
    segment: Segment,
    piece: Piece,
    layout: PageLayout,
    sharers: tuple[int, int],
    tally: Tally,
) -> None:
    """Count the wrong pages of a block by field and keep examples."""
    difference = got ^ wanted
    first_shared, distance = sharers
    copies = (segment.stride - segment.stored) // distance if distance else 0

    def spread(pages: NDArray[np.int64]) -> int:
        """Return how many struct pages the pages (of their unit) stand for."""
        return len(pages) + int(np.count_nonzero(pages >= first_shared)) * copies

    for run, part in image.runs:
        wrong = np.argwhere((difference[:, part] != 0).any(axis=2))
        if not len(wrong):
            continue
        tally.mismatches += spread(wrong[:, 1] + part.start + piece.first)
        units, pages = wrong[:, 0], wrong[:, 1] + part.start
        for field in layout.named(run.role):
            word, mask = field.offset // 8, _mask(field)
            hit = (difference[units, pages, word] & mask) != 0
            if not hit.any():
                continue
            places = np.stack((units[hit], pages[hit]), axis=-1)
            name = label(field, run.role)
            examples = []
            for unit, page in places[: tally.limit].tolist():
                values = [_value(int(words[unit, page, word]), field) for words in (got, wanted)]
                inside = piece.first + page
                pfn = segment.first_pfn + (piece.unit + unit) * segment.stride + inside
                copied = copies if inside >= first_shared else 0
                for step in range(min(copied, tally.limit) + 1):
                    examples.append(Example(pfn + step * distance, name, *values))
            inner = places[:, 1] + piece.first
            pfns = segment.first_pfn + (piece.unit + places[:, 0]) * segment.stride + inner
            weights = np.where(inner >= first_shared, 1 + copies, 1)
            tally.add(name, spread(inner), sorted(examples), pfns, weights)


def label(field: Field, role: Role) -> str:
    """Return the field's name, with the role of its page where that is a special one."""
    return field.name if role in (Role.PAGE, Role.TAIL) else f"{field.name} ({role.value})"


def _mask(field: Field) -> np.uint64:
    return np.uint64(((1 << 8 * field.size) - 1) << 8 * (field.offset % 8))


def _value(word: int, field: Field) -> str:
    value = (word >> 8 * (field.offset % 8)) & ((1 << 8 * field.size) - 1)
    return f"{value:#0{2 + 2 * field.size}x}"
