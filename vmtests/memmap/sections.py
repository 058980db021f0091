"""The memory sections of a range: the pageblock bits, and which of them exist since boot. Read by drgn, in bulk."""

from __future__ import annotations

from dataclasses import dataclass

import drgn
import numpy as np
from numpy.typing import NDArray

from vmtests.errors import HostFailure
from vmtests.memmap.layout import PAGE_SIZE, Pageblocks


@dataclass(frozen=True)
class Sections:
    """What struct mem_section says of a range (include/linux/mmzone.h:1997-2036 in 7.3.4).

    Args:
        first: number of the first section.
        present: for each, whether it has a memmap.
        early: numbers of those that exist since boot.
        blocks: bits of each pageblock from the start of the first section on; 0 where a section is not present.
        block_order: order of a pageblock.
        section_shift: order of a section in pages.
    """

    first: int
    present: NDArray[np.bool_]
    early: frozenset[int]
    blocks: NDArray[np.uint8]
    block_order: int
    section_shift: int

    @classmethod
    def read(
        cls, program: drgn.Program, pageblocks: Pageblocks, section_shift: int, first_pfn: int, end_pfn: int
    ) -> Sections:
        """Read the sections that the pfns from `first_pfn` to `end_pfn` touch."""
        first, end = first_pfn >> section_shift, ((end_pfn - 1) >> section_shift) + 1
        roots = program["mem_section"]
        if roots.type_.kind != drgn.TypeKind.POINTER:
            raise HostFailure("mem_section of this kernel is no table of tables: it needs CONFIG_SPARSEMEM_EXTREME=y")
        if pageblocks.bits > 8:
            raise HostFailure(f"this kernel has {pageblocks.bits} bits for each pageblock, not up to 8")
        section, usage = program.type("struct mem_section"), program.type("struct mem_section_usage")
        per_root = PAGE_SIZE // drgn.sizeof(section)
        words = np.zeros((end - first, drgn.sizeof(section) // 8), dtype=np.uint64)
        for root in range(first // per_root, (end - 1) // per_root + 1):
            table = roots[root].value_()
            if not table:
                continue
            low, high = max(first, root * per_root), min(end, (root + 1) * per_root)
            data = program.read(
                table + (low - root * per_root) * drgn.sizeof(section), (high - low) * drgn.sizeof(section)
            )
            words[low - first : high - first] = np.frombuffer(data, dtype="<u8").reshape(high - low, -1)
        maps = words[:, drgn.offsetof(section, "section_mem_map") // 8]
        usages = words[:, drgn.offsetof(section, "usage") // 8]
        flag = {name: np.uint64(1 << program[f"SECTION_{name}_BIT"].value_()) for name in ("HAS_MEM_MAP", "IS_EARLY")}
        early = np.flatnonzero(maps & flag["IS_EARLY"]) + first
        per_section = 1 << (section_shift - pageblocks.order)
        size, offset = per_section * pageblocks.bits // 8, drgn.offsetof(usage, "pageblock_flags")
        bits = np.zeros((end - first, size), dtype=np.uint8)
        for index, address in enumerate(usages.tolist()):
            if address:
                bits[index] = np.frombuffer(program.read(address + offset, size), dtype=np.uint8)
        return cls(
            first=first,
            present=(maps & flag["HAS_MEM_MAP"]) != 0,
            early=frozenset(early.tolist()),
            blocks=_spread(bits.reshape(-1), pageblocks.bits),
            block_order=pageblocks.order,
            section_shift=section_shift,
        )

    def block(self, pfn: int) -> int:
        """Return the bits of the pageblock that `pfn` lies in."""
        return int(self.blocks[(pfn >> self.block_order) - (self.first << (self.section_shift - self.block_order))])

    def block_range(self, first_pfn: int, end_pfn: int) -> NDArray[np.uint8]:
        """Return the bits of the pageblocks from the one of `first_pfn` to the one before `end_pfn`."""
        base = self.first << (self.section_shift - self.block_order)
        return self.blocks[(first_pfn >> self.block_order) - base : (end_pfn >> self.block_order) - base]


def _spread(data: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return one byte for each group of `bits` bits, low bits first."""
    if bits == 8:
        return data
    parts = [(data >> (shift * bits)) & ((1 << bits) - 1) for shift in range(8 // bits)]
    return np.stack(parts, axis=-1).reshape(-1).astype(np.uint8)
