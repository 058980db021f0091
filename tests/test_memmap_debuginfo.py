"""Deriving the layout of struct page from types and a .config. The types are made by hand, as 7.3.4 has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import drgn
import pytest
from drgn import Program, Type, TypeEnumerator, TypeKindSet, TypeMember

from tests.fake_memmap import LAYOUT
from vmtests.errors import HostFailure
from vmtests.memmap.debuginfo import derive, pgmap_offsets
from vmtests.memmap.layout import Bits, Field, Role
from vmtests.memmap.program import open_vmlinux

CONFIG = {
    "CONFIG_X86_64": "y",
    "CONFIG_NUMA": "y",
    "CONFIG_NODES_SHIFT": "6",
    "CONFIG_NR_CPUS": "64",
    "CONFIG_ILLEGAL_POINTER_VALUE": "0xdead000000000000",
    "CONFIG_MM_ID": "y",
    "CONFIG_ARCH_WANT_OPTIMIZE_DAX_VMEMMAP": "y",
    "CONFIG_TRANSPARENT_HUGEPAGE": "y",
}

#: A member: its name ("" for what C leaves anonymous), its offset in bytes, its type.
Member = tuple[str, int, Type]


class Types:
    """The types of a kernel; a test changes what it wants before it asks for the program."""

    def __init__(self) -> None:
        self.program = program = Program(drgn.Platform(drgn.Architecture.X86_64))
        self.long = program.int_type("unsigned long", 8, False)
        self.int = program.int_type("int", 4, True)
        self.list = self.struct("list_head", 16, [("next", 0, self.long), ("prev", 8, self.long)])
        self.flags = ["PG_locked", "PG_writeback", "PG_referenced", "PG_uptodate", "PG_dirty", "PG_lru", "PG_head"]
        self.flags += [f"PG_{i}" for i in range(7, 13)] + ["PG_reserved"] + [f"PG_{i}" for i in range(14, 22)]
        self.zones = ["ZONE_DMA32", "ZONE_NORMAL", "ZONE_MOVABLE", "ZONE_DEVICE"]
        self.page_end: list[Member] = []
        self.folio_end: list[Member] = []
        self.nodes = 64

    def struct(self, tag: str | None, size: int, members: Sequence[Member]) -> Type:
        listed = [TypeMember(kind, name or None, offset * 8) for name, offset, kind in members]
        return self.program.struct_type(tag, size, listed)

    def enum(self, tag: str, values: Mapping[str, int]) -> Type:
        listed = [TypeEnumerator(name, value) for name, value in values.items()]
        return self.program.enum_type(tag, self.int, listed)

    def finish(self) -> Program:
        """Return the program with all of the types in it."""
        long, number = self.long, self.int
        pair = self.program.array_type(number, 2)
        union = self.program.union_type(
            None,
            40,
            [
                TypeMember(
                    self.struct(
                        None,
                        40,
                        [
                            ("lru", 0, self.list),
                            ("mapping", 16, long),
                            ("__folio_index", 24, long),
                            ("private", 32, long),
                        ],
                    )
                ),
                TypeMember(self.struct(None, 8, [("compound_info", 0, long)])),
                TypeMember(self.struct(None, 16, [("zone_device_data", 8, long)])),
            ],
        )
        counts: list[Member] = [("_mapcount", 48, number), ("_refcount", 52, number)]
        page = self.struct("page", 64, [("flags", 0, long), ("", 8, union), *counts, *self.page_end])
        folio: list[Member] = [("flags", 0, long), ("pgmap", 8, long), ("_large_mapcount", 80, number)]
        folio += [("_nr_pages_mapped", 84, number), ("_entire_mapcount", 88, number), ("_pincount", 92, number)]
        folio += [("_mm_id_mapcount", 96, pair), ("_mm_ids", 104, long), ("_deferred_list", 144, self.list)]
        altmap = self.struct("vmem_altmap", 48, [("base_pfn", 0, long), ("reserve", 16, long), ("free", 24, long)])
        pgmap: list[Member] = [("altmap", 0, altmap), ("type", 96, number), ("flags", 100, number)]
        area = self.program.array_type(long, 11)
        bits = [f"PB_migrate_{i}" for i in range(3)] + ["PB_compact_skip", "PB_migrate_isolate", "__NR_PAGEBLOCK_BITS"]
        memory = ["PRIVATE", "COHERENT", "FS_DAX", "GENERIC", "PCI_P2PDMA"]
        types = [
            page,
            self.struct("folio", 256, [*folio, *self.folio_end]),
            self.struct("dev_pagemap", 160, [*pgmap, ("vmemmap_shift", 104, long)]),
            self.struct("zone", 88, [("free_area", 0, area)]),
            self.struct("lru_gen_folio", 32, [("timestamps", 0, self.program.array_type(long, 4))]),
            self.enum("pageflags", numbered([*self.flags, "__NR_PAGEFLAGS"])),
            self.enum("zone_type", numbered([*self.zones, "__MAX_NR_ZONES"])),
            self.enum("memory_type", {f"MEMORY_DEVICE_{name}": i + 1 for i, name in enumerate(memory)}),
            self.enum("pageblock_bits", numbered(bits)),
            self.enum("migratetype", numbered(["MIGRATE_UNMOVABLE", "MIGRATE_MOVABLE"])),
        ]
        nodes = self.program.array_type(long, self.nodes)

        def find_type(_: Program, kinds: TypeKindSet, name: str, _file: str | None) -> Type | None:
            return next((kind for kind in types if kind.kind in kinds and kind.tag == name), None)

        def find_object(_: Program, name: str, _flags: drgn.FindObjectFlags, _file: str | None) -> drgn.Object | None:
            return drgn.Object(self.program, nodes, address=0x1000) if name == "node_data" else None

        self.program.register_type_finder("test", find_type, enable_index=0)
        self.program.register_object_finder("test", find_object, enable_index=0)
        return self.program


def numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def test_the_example_config() -> None:
    """Types and config as documented give the layout that the hand-made memmaps are laid out in."""
    layout = derive(Types().finish(), CONFIG, "7.3.4-vmtests")
    for name in LAYOUT.__dict__:
        if name != "pgmap_offsets":
            assert getattr(layout, name) == getattr(LAYOUT, name), name


def test_the_offsets_for_the_probe() -> None:
    assert pgmap_offsets(Types().finish()) == {
        "base_pfn": 0,
        "reserve": 16,
        "free": 24,
        "type": 96,
        "flags": 100,
        "vmemmap_shift": 104,
    }


def test_widths_follow_the_config() -> None:
    types = Types()
    types.zones.insert(0, "ZONE_DMA")
    types.page_end = [("memcg_data", 56, types.long)]
    types.folio_end = [("_nr_pages", 120, types.int)]
    extra = ["NUMA_BALANCING", "LRU_GEN", "MEMCG", "HUGETLB_PAGE_OPTIMIZE_VMEMMAP", "DEBUG_VM"]
    config = CONFIG | {f"CONFIG_{name}": "y" for name in extra}
    layout = derive(types.finish(), config, "7.3.4")
    assert (layout.node, layout.zone, layout.zone_device) == (Bits(58, 6), Bits(55, 3), 4)
    assert (layout.last_cpupid, layout.cpupid_bits) == (Bits(41, 14), 14)
    assert (layout.compound_mask, layout.debug_vm) == (True, True)
    assert layout.fields[Role.PAGE][-1] == layout.fields[Role.TAIL_2][-1] == Field("memcg_data", 56, 8)
    assert layout.fields[Role.TAIL_1][-1] == Field("_nr_pages", 56, 4)
    assert layout.named(Role.TAIL_1)[-1] == Field("padding+60", 60, 4)


def test_a_cpupid_of_its_own() -> None:
    types = Types()
    types.page_end = [("_last_cpupid", 56, types.int)]
    layout = derive(types.finish(), CONFIG | {"CONFIG_NUMA_BALANCING": "y"}, "7.3.4")
    assert (layout.last_cpupid.width, layout.cpupid_bits) == (0, 14)
    assert layout.field(Role.TAIL, "_last_cpupid") == Field("_last_cpupid", 56, 4)


def without(name: str) -> dict[str, str]:
    return {option: value for option, value in CONFIG.items() if option != name}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "CONFIG_X86_64=y"),
        (without("CONFIG_NODES_SHIFT"), "no number for CONFIG_NODES_SHIFT"),
        (without("CONFIG_ILLEGAL_POINTER_VALUE"), "no number for CONFIG_ILLEGAL_POINTER_VALUE"),
        (CONFIG | {"CONFIG_NODES_SHIFT": "10"}, "CONFIG_NODES_SHIFT=10, but the debug info has 64 nodes"),
        (CONFIG | {"CONFIG_MEMCG": "y"}, "disagree on CONFIG_MEMCG"),
        (CONFIG | {"CONFIG_NUMA_BALANCING": "y", "CONFIG_NR_CPUS": str(1 << 30)}, "more bits in page->flags"),
    ],
)
def test_a_config_that_says_too_little_or_does_not_fit(config: dict[str, str], reason: str) -> None:
    with pytest.raises(HostFailure, match=reason):
        derive(Types().finish(), config, "7.3.4")


def test_a_member_that_nobody_has_looked_at_is_refused() -> None:
    types = Types()
    types.page_end = [("kmsan_shadow", 56, types.long)]
    with pytest.raises(HostFailure, match="struct page of this kernel has kmsan_shadow"):
        derive(types.finish(), CONFIG, "7.3.4")
    types = Types()
    types.folio_end = [("_new_count", 120, types.int)]
    with pytest.raises(HostFailure, match="struct folio of this kernel has _new_count"):
        derive(types.finish(), CONFIG, "7.3.4")


def test_a_file_that_is_no_debug_info(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(b"not ELF")
    for name in ("vmlinux", "missing"):
        with pytest.raises(HostFailure, match=f"{name}.* (is no ELF file|cannot be read)"):
            open_vmlinux(tmp_path / name)


def test_a_kernel_without_zone_device() -> None:
    types = Types()
    types.zones.remove("ZONE_DEVICE")
    with pytest.raises(HostFailure, match="no ZONE_DEVICE: it needs CONFIG_ZONE_DEVICE=y"):
        derive(types.finish(), CONFIG, "7.3.4")


def test_no_types_at_all() -> None:
    with pytest.raises(HostFailure, match="has no struct page"):
        derive(Program(drgn.Platform(drgn.Architecture.X86_64)), CONFIG, "7.3.4")


def test_a_release_without_series() -> None:
    with pytest.raises(HostFailure, match="'next-20261123'"):
        derive(Types().finish(), CONFIG, "next-20261123")
