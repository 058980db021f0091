"""Proof by corruption: single bits of a live memmap are flipped from the host, and the check must find each of them.

All flips are made at once and looked for by one check: each must be reported for the right pages, field and bit, and
nothing else may be. Flipping the same bits again undoes it. The guest stands still meanwhile, so that nothing in it
trips over them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest

from vmtests.memmap.access import Access
from vmtests.memmap.check import check
from vmtests.memmap.compare import label, sharers_of
from vmtests.memmap.expected import Expected, Segment, expected
from vmtests.memmap.layout import PAGE_SIZE, PageLayout, Role
from vmtests.memmap.pagetable import Window
from vmtests.memmap.physical import PhysicalMemory
from vmtests.memmap.result import EXAMPLES, Example, MemmapResult
from vmtests.memmap.truth import RangeTruth

#: How many struct pages the flips in shared memory may stand for: of a 1 GiB folio, one flip stands for 4095, so that
#: these are enough for each byte of a struct page.
SHARED_REPORTS = 1 << 18


@dataclass(frozen=True)
class Flip:
    """One bit of the memmap.

    Args:
        pfns: whose struct page it is in: one, or all that share that memory.
        offset: the byte in the struct page.
        bit: in the byte.
        field: what the check calls the field that holds it.
        mask: the bit in the field's value.
    """

    pfns: range
    offset: int
    bit: int
    field: str
    mask: int

    def __str__(self) -> str:
        return f"pfn {self.pfns[0]:#x}, byte {self.offset}, bit {self.bit} ({self.field})"


@dataclass(frozen=True)
class Proof:
    """What became of the flips.

    Args:
        flips: all of them.
        missed: not reported for all of their pages, in their field, by their bit.
        invented: reported, but of no flip.
        surplus: pages and fields counted beyond those of the flips.
        restored: the check after the flips were undone.
        seconds: for all of it.
    """

    flips: tuple[Flip, ...]
    missed: tuple[Flip, ...]
    invented: tuple[Example, ...]
    surplus: int
    restored: MemmapResult
    seconds: float

    @property
    def passed(self) -> bool:
        """Exactly the flips were reported, and nothing once they were undone."""
        return not (self.missed or self.invented or self.surplus) and self.restored.passed

    def __str__(self) -> str:
        pages = sum(len(flip.pfns) for flip in self.flips)
        found = len(self.flips) - len(self.missed)
        said = [f"{found} of {len(self.flips)} flipped bits found in {pages} struct pages, {self.seconds:.1f} s"]
        said += [f"missed: {flip}" for flip in self.missed[:EXAMPLES]]
        said += [f"not flipped: {example}" for example in self.invented[:EXAMPLES]]
        if self.surplus:
            said.append(f"{self.surplus:+} pages or fields counted")
        said += [f"after the flips were undone: {example}" for example in self.restored.examples]
        return "\n".join(said)


def prove(access: Access, truth: RangeTruth, *, node: int, count: int, seed: int) -> Proof:
    """Flip `count` bits of a right memmap, check it, flip them back, and check it again.

    Args:
        access: attached to the guest, the driver bound, nothing using the namespace.
        truth: what the bind's probe saw.
        node: the NUMA node of the device.
        count: how many bits.
        seed: the same seed flips the same bits of the same range.
    """
    begun = time.monotonic()
    facts = access.facts(access.sections(truth.start_pfn, truth.end_pfn), node)
    flips = plan(expected(truth, access.layout, facts), access.layout, count, seed)
    limit = sum(len(flip.pfns) for flip in flips) + EXAMPLES
    with flipped(access, truth, flips):
        spoilt = check(access, truth, node=node, limit=limit)
    return judge(flips, spoilt, check(access, truth, node=node), time.monotonic() - begun)


def judge(flips: Sequence[Flip], spoilt: MemmapResult, restored: MemmapResult, seconds: float) -> Proof:
    """Hold what a check reported against what was flipped; no two flips are in one struct page."""
    wanted = {(pfn, flip.field) for flip in flips for pfn in flip.pfns}
    reported = {(example.pfn, example.field): example for example in spoilt.examples}

    def found(flip: Flip) -> bool:
        examples = [reported.get((pfn, flip.field)) for pfn in flip.pfns]
        return all(one is not None and int(one.got, 0) ^ int(one.wanted, 0) == flip.mask for one in examples)

    counted = spoilt.mismatches, sum(spoilt.histogram.values())
    return Proof(
        flips=tuple(flips),
        missed=tuple(flip for flip in flips if not found(flip)),
        invented=tuple(example for key, example in reported.items() if key not in wanted),
        surplus=max(counted, key=lambda number: abs(number - len(wanted))) - len(wanted),
        restored=restored,
        seconds=seconds,
    )


@contextmanager
def flipped(access: Access, truth: RangeTruth, flips: Sequence[Flip]) -> Iterator[None]:
    """The guest is stopped and the bits are flipped inside."""
    with access.stopped(), access.memory(writable=True) as memory:
        window = access.window(memory, truth.start_pfn, truth.end_pfn)
        toggle(memory, window, flips, access.layout, access.vmemmap)
        try:
            yield
        finally:
            toggle(memory, window, flips, access.layout, access.vmemmap)


def toggle(memory: PhysicalMemory, window: Window, flips: Sequence[Flip], layout: PageLayout, vmemmap: int) -> None:
    """Flip the bits in the files of the guest's memory, entered and writable; doing so twice leaves all as it was."""
    for flip in flips:
        address = vmemmap + flip.pfns[0] * layout.size + flip.offset
        place = int(window.slice(address, 1)[0]) + address % PAGE_SIZE
        memory.write(place, bytes([memory.read(place, 1)[0] ^ 1 << flip.bit]))


def plan(want: Expected, layout: PageLayout, count: int, seed: int) -> tuple[Flip, ...]:
    """Choose `count` bits, no two in one struct page.

    The kinds of struct page take turns (altmap reserve, head, tail 1, tail 2, other tails, shared tails): the first of
    each, the last of each, then random ones. In each kind each byte comes once before any comes again.
    """
    chance = random.Random(seed)
    parts = list(_parts(want, layout.size))
    turns = zip_longest(*(part.draw(chance, count) for part in parts))
    places = [(part, at) for turn in turns for part, at in zip(parts, turn, strict=True) if at is not None][:count]
    flips = []
    left: dict[_Part, list[int]] = {}
    for part, at in places:
        if not left.get(part):
            left[part] = chance.sample(range(layout.size), layout.size)
        offset, bit = left[part].pop(), chance.randrange(8)
        field = next(one for one in layout.named(part.role) if one.offset <= offset < one.offset + one.size)
        mask = 1 << 8 * (offset - field.offset) + bit
        flips.append(Flip(part.pfns(at), offset, bit, label(field, part.role), mask))
    return tuple(flips)


@dataclass(frozen=True)
class _Part:
    """Struct pages `first` to `first + count` of every unit of a segment: of one role, and shared by as many.

    Each is the struct page of `copies` more pfns, one every `distance`.
    """

    segment: Segment
    role: Role
    first: int
    count: int
    copies: int = 0
    distance: int = 1

    def draw(self, chance: random.Random, most: int) -> list[int]:
        """Return up to `most` different ones, as numbers: the first, the last, then random ones."""
        size = self.segment.units * self.count
        if self.copies:
            most = min(most, max(2, SHARED_REPORTS // self.copies))
        drawn = [0, size - 1, *chance.sample(range(size), min(size, most))]
        return list(dict.fromkeys(drawn))[:most]

    def pfns(self, number: int) -> range:
        """Return the pfns that the struct page belongs to."""
        unit, inside = divmod(number, self.count)
        pfn = self.segment.first_pfn + unit * self.segment.stride + self.first + inside
        return range(pfn, pfn + self.copies * self.distance + 1, self.distance)


def _parts(want: Expected, size: int) -> Iterator[_Part]:
    for segment in (*([want.reserve] if want.reserve else []), *want.pages):
        shared, distance = sharers_of(segment, size)
        copies = (segment.stride - segment.stored) // distance if distance else 0
        at = 0
        for run in segment.runs:
            end = at + run.count
            if at < min(end, shared):
                yield _Part(segment, run.role, at, min(end, shared) - at)
            if max(at, shared) < end:
                yield _Part(segment, run.role, max(at, shared), end - max(at, shared), copies, distance)
            at = end
