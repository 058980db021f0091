"""A kernel's `PageLayout`, from its debug info by drgn (see `program`) and its .config.

What cannot be derived is a failure, not a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import drgn

from vmtests.errors import HostFailure
from vmtests.memmap.layout import Bits, Field, Pageblocks, PageLayout, Role

#: The fields of struct dev_pagemap that a probe on memmap_init_zone_device() reads, by the names that it uses.
PGMAP_FIELDS = {
    "base_pfn": "altmap.base_pfn",
    "reserve": "altmap.reserve",
    "free": "altmap.free",
    "type": "type",
    "flags": "flags",
    "vmemmap_shift": "vmemmap_shift",
}

#: Every member of struct page and of struct folio for which the expected contents account (include/linux/mm_types.h).
#: One more, and this kernel keeps something in a struct page that nobody has looked at.
_PAGE_MEMBERS = """
    flags lru buddy_list pcp_list pcp_llist mapping __folio_index share private pp_magic pp _pp_mapping_pad dma_addr
    pp_ref_count compound_info _unused_pgmap_compound_info zone_device_data callback_head page_type _mapcount _refcount
    memcg_data _unused_slab_obj_exts _last_cpupid
"""
_FOLIO_MEMBERS = """
    flags lru __filler mlock_count pgmap mapping index share private swap migrate_info _mapcount _refcount memcg_data
    _unused_slab_obj_exts _last_cpupid page
    _flags_1 _head_1 _large_mapcount _nr_pages_mapped _entire_mapcount _pincount _mm_id_mapcount _mm_id _mm_ids
    _usable_1 _mapcount_1 _refcount_1 _nr_pages __page_1
    _flags_2 _head_2 _deferred_list __page_2
    _flags_3 _head_3 _hugetlb_subpool _hugetlb_cgroup _hugetlb_cgroup_rsvd _hugetlb_hwpoison __page_3
"""

#: include/linux/page-flags-layout.h:85: bits of a pid in a cpupid; a literal there, so not in any debug info.
LAST_PID_SHIFT = 8

#: x86-64: PMD_SHIFT - PAGE_SHIFT (arch/x86/include/asm/pgtable_64_types.h:69).
PMD_ORDER = 9


def pgmap_offsets(program: drgn.Program) -> Mapping[str, int]:
    """Return the offsets in struct dev_pagemap that a probe needs, in bytes, by the names in `PGMAP_FIELDS`."""
    pgmap = _type(program, "struct dev_pagemap")
    return {name: _field(pgmap, path).offset for name, path in PGMAP_FIELDS.items()}


def derive(program: drgn.Program, config: Mapping[str, str], release: str) -> PageLayout:
    """Return the layout of struct page in the kernel whose debug info `program` has.

    Args:
        program: attached to the running kernel or not; only its types are used.
        config: the kernel's .config: "CONFIG_X" -> value, options that are not set absent.
        release: its release, "7.3.4".

    Raises:
        HostFailure: something that the layout depends on is in neither, or the two contradict each other.
    """
    if config.get("CONFIG_X86_64") != "y":
        raise HostFailure("the kernel's .config has no CONFIG_X86_64=y: it is not the .config of an x86-64 kernel")
    series = re.match(r"\d+\.\d+", release)
    if series is None:
        raise HostFailure(f"the kernel's release {release!r} does not begin with its series, like 7.3")
    page, folio = _type(program, "struct page"), _type(program, "struct folio")
    _refuse_unknown(page, _PAGE_MEMBERS)
    _refuse_unknown(folio, _FOLIO_MEMBERS)
    if ("memcg_data" in _names(page)) != ("CONFIG_MEMCG" in config):
        raise HostFailure("the .config and the debug info disagree on CONFIG_MEMCG: they are of two kernels")
    flags = _enumerators(program, "enum pageflags")
    zones = _enumerators(program, "enum zone_type")
    size = page.size
    if size is None or size % 8:
        raise HostFailure(f"sizeof(struct page) is {size}: not a whole number of words")
    node, zone, last_cpupid, cpupid_bits = _flag_fields(program, page, config, flags, zones)
    prefix = "MEMORY_DEVICE_"
    return PageLayout(
        series=series[0],
        size=size,
        fields=_fields(page, folio, size),
        node=node,
        zone=zone,
        last_cpupid=last_cpupid,
        cpupid_bits=cpupid_bits,
        zone_device=_value(zones, "ZONE_DEVICE", "CONFIG_ZONE_DEVICE"),
        reserved=_value(flags, "PG_reserved"),
        head=_value(flags, "PG_head"),
        memory_types={
            name.removeprefix(prefix): value for name, value in _enumerators(program, "enum memory_type").items()
        },
        compound_mask="CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP" in config and size & (size - 1) == 0,
        tail_mapping=0x400 + _number(config, "CONFIG_ILLEGAL_POINTER_VALUE"),
        mm_id="CONFIG_MM_ID" in config,
        dax_vmemmap_optimized="CONFIG_ARCH_WANT_OPTIMIZE_DAX_VMEMMAP" in config,
        debug_vm="CONFIG_DEBUG_VM" in config,
        pageblocks=_pageblocks(program, config),
        pgmap_offsets=pgmap_offsets(program),
    )


def _fields(page: drgn.Type, folio: drgn.Type, size: int) -> Mapping[Role, tuple[Field, ...]]:
    """Name the bytes of a struct page in each of its roles."""

    def members(*paths: str, of: drgn.Type = page, less: int = 0) -> list[Field]:
        return [_field(of, path, less) for path in paths]

    index = Field("index", *_place(page, "__folio_index"))
    ends = members("_mapcount", "_refcount")
    extra = [_field(page, name) for name in ("memcg_data", "_unused_slab_obj_exts") if name in _names(page)]
    cpupid = members("_last_cpupid") if "_last_cpupid" in _names(page) else []
    first, second, last = members("flags"), members("compound_info"), [*ends, *extra, *cpupid]
    data = members("zone_device_data", "mapping")
    # A folio's own data lie in its tails: members of struct folio, each `size` further on.
    counts = members("_large_mapcount", "_nr_pages_mapped", "_entire_mapcount", "_pincount", of=folio, less=size)
    map_counts = _field(folio, "_mm_id_mapcount", size)
    half = map_counts.size // 2
    counts += [Field(f"_mm_id_mapcount[{i}]", map_counts.offset + i * half, half) for i in (0, 1)]
    counts += members("_mm_ids", of=folio, less=size)
    nr_pages = members("_nr_pages", of=folio, less=size) if "_nr_pages" in _names(folio) else []
    deferred = members("_deferred_list.next", "_deferred_list.prev", of=folio, less=2 * size)
    private = members("private")
    tables = {
        Role.PAGE: [*first, *members("pgmap", of=folio), *data, index, *private, *last],
        Role.RESERVE: [*first, *members("lru.next", "lru.prev", "mapping"), index, *private, *last],
        Role.TAIL_1: [*first, *second, *counts, *ends, *(nr_pages or extra), *cpupid],
        Role.TAIL_2: [*first, *second, *deferred, index, *private, *last],
        Role.TAIL: [*first, *second, *data, index, *private, *last],
    }
    return {role: tuple(sorted(table, key=lambda field: field.offset)) for role, table in tables.items()}


def _flag_fields(
    program: drgn.Program,
    page: drgn.Type,
    config: Mapping[str, str],
    flags: Mapping[str, int],
    zones: Mapping[str, int],
) -> tuple[Bits, Bits, Bits, int]:
    """Return node, zone, last_cpupid and a cpupid's width.

    include/linux/page-flags-layout.h:15-116 has the widths, include/linux/mmzone.h:1247-1264 the order.
    """
    zone_width = (_value(zones, "__MAX_NR_ZONES") - 1).bit_length()
    node_width = _nodes_shift(program, config)
    cpupid_bits = 0
    if "CONFIG_NUMA_BALANCING" in config:
        cpupid_bits = LAST_PID_SHIFT + (_number(config, "CONFIG_NR_CPUS") - 1).bit_length()
    last_cpupid_width = 0 if "_last_cpupid" in _names(page) else cpupid_bits
    tag_width = 8 if "CONFIG_KASAN_SW_TAGS" in config else 4 if "CONFIG_KASAN_HW_TAGS" in config else 0
    generation_width = 0
    if "CONFIG_LRU_GEN" in config:
        generations = _length(_type(program, "struct lru_gen_folio"), "timestamps")
        generation_width = generations.bit_length()  # order_base_2(MAX_NR_GENS + 1), kernel/bounds.c:27
    free = 64 - _value(flags, "__NR_PAGEFLAGS")
    if zone_width + node_width + last_cpupid_width + tag_width + generation_width > free:
        raise HostFailure(
            f"the .config wants more bits in page->flags than the {free} that the debug info leaves: "
            "they are of two kernels"
        )
    node = Bits(64 - node_width, node_width)
    zone = Bits(node.shift - zone_width, zone_width)
    return node, zone, Bits(zone.shift - last_cpupid_width, last_cpupid_width), cpupid_bits


def _nodes_shift(program: drgn.Program, config: Mapping[str, str]) -> int:
    """CONFIG_NODES_SHIFT, which is also the length of node_data[] (arch/x86/mm/numa.c, include/linux/numa.h)."""
    if "CONFIG_NUMA" not in config:
        return 0
    configured = _number(config, "CONFIG_NODES_SHIFT")
    try:
        length = program["node_data"].type_.length
    except (KeyError, AttributeError):
        return configured
    if length is not None and length != 1 << configured:  # None: BTF has no variables
        raise HostFailure(
            f"CONFIG_NODES_SHIFT={configured}, but the debug info has {length} nodes: the .config is of another kernel"
        )
    return configured


def _pageblocks(program: drgn.Program, config: Mapping[str, str]) -> Pageblocks:
    """include/linux/pageblock-flags.h:18-70."""
    bits = _enumerators(program, "enum pageblock_bits")
    types = _enumerators(program, "enum migratetype")
    order = _length(_type(program, "struct zone"), "free_area") - 1  # MAX_PAGE_ORDER
    if "CONFIG_PAGE_BLOCK_MAX_ORDER" in config:
        order = _number(config, "CONFIG_PAGE_BLOCK_MAX_ORDER")
    if "CONFIG_HUGETLB_PAGE" in config or "CONFIG_TRANSPARENT_HUGEPAGE" in config:
        order = min(order, PMD_ORDER)
    isolate = bits.get("PB_migrate_isolate")
    return Pageblocks(
        order=order,
        bits=1 << (_value(bits, "__NR_PAGEBLOCK_BITS") - 1).bit_length(),
        migratetype_mask=sum(1 << _value(bits, f"PB_migrate_{i}") for i in range(3)),
        isolate_mask=0 if isolate is None else 1 << isolate,
        movable=_value(types, "MIGRATE_MOVABLE"),
        unmovable=_value(types, "MIGRATE_UNMOVABLE"),
    )


def _type(program: drgn.Program, name: str) -> drgn.Type:
    try:
        return program.type(name)
    except LookupError:
        raise HostFailure(f"the kernel's debug info has no {name}") from None


def _place(type_: drgn.Type, path: str) -> tuple[int, int]:
    """Return offset and size in bytes of the member `path`, like "lru.next"."""
    offset = 0
    for name in path.split("."):
        while type_.kind == drgn.TypeKind.TYPEDEF:
            type_ = type_.type
        try:
            offset += drgn.offsetof(type_, name)
        except LookupError:
            raise HostFailure(f"{type_.type_name()} of this kernel has no {path}") from None
        type_ = type_.member(name).type
    return offset, drgn.sizeof(type_)


def offset_of(type_: drgn.Type, path: str) -> int:
    """Return the offset in bytes of the member `path`, like "altmap.free"."""
    return _place(type_, path)[0]


def _field(type_: drgn.Type, path: str, less: int = 0) -> Field:
    offset, size = _place(type_, path)
    return Field(path, offset - less, size)


def _length(type_: drgn.Type, name: str) -> int:
    try:
        length = type_.member(name).type.length
    except LookupError:
        raise HostFailure(f"{type_.type_name()} of this kernel has no {name}") from None
    if not length:
        raise HostFailure(f"{type_.type_name()}.{name} of this kernel has no length")
    return int(length)


def _names(type_: drgn.Type) -> frozenset[str]:
    """Return the names of the members, through anonymous structs and unions."""

    def walk(inner: drgn.Type) -> Iterator[str]:
        for member in inner.members or ():
            if member.name is None:
                yield from walk(member.type)
            else:
                yield member.name

    return frozenset(walk(type_))


def _refuse_unknown(type_: drgn.Type, known: str) -> None:
    if unknown := sorted(_names(type_).difference(known.split())):
        raise HostFailure(
            f"{type_.type_name()} of this kernel has {', '.join(unknown)}: what a memmap must hold there is not known. "
            "Compare its mm/mm_init.c with vmtests/memmap/expected.py"
        )


def _enumerators(program: drgn.Program, name: str) -> Mapping[str, int]:
    return {enumerator.name: enumerator.value for enumerator in _type(program, name).enumerators or ()}


def _value(enumerators: Mapping[str, int], name: str, option: str | None = None) -> int:
    if name not in enumerators:
        raise HostFailure(f"the kernel's debug info has no {name}" + (f": it needs {option}=y" if option else ""))
    return enumerators[name]


def _number(config: Mapping[str, str], option: str) -> int:
    try:
        return int(config[option], 0)
    except (KeyError, ValueError):
        raise HostFailure(f"the kernel's .config has no number for {option}") from None
