"""What every struct page of a range must hold right after a bind. A pure function: nothing here reads a memmap.

The rules are those of the kernel's slow path, from its source; positions are in Linux 7.3.4. A rule that depends on the
kernel's config takes it from the `PageLayout`. A series whose source nobody has compared with these rules is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from vmtests.errors import HostFailure
from vmtests.memmap.layout import PAGE_SIZE, PageLayout, Role
from vmtests.memmap.truth import RangeTruth

#: The series whose mm/mm_init.c, mm/internal.h and mm/sparse-vmemmap.c these rules were read from.
SERIES = ("7.3",)

#: mm/mm_init.c:1045: folios of a memmap in RAM own two pages of it (include/linux/mm.h:5192).
VMEMMAP_RESERVE_NR = 2

#: memory types whose pages start with no reference (mm/mm_init.c:1011-1021); GENERIC pages start with one.
UNREFERENCED = ("FS_DAX", "PRIVATE", "COHERENT", "PCI_P2PDMA")


@dataclass(frozen=True)
class Facts:
    """What the contents depend on besides the range: facts of the running guest, none of them read from a struct page.

    Args:
        node: the NUMA node of the range's zone.
        vmemmap: address of the struct page of pfn 0.
        section_pages: pages of a memory section.
        early_sections: numbers of the sections in the range that exist since boot.
        mobility_disabled: page_group_by_mobility_disabled: a small guest, where every pageblock is UNMOVABLE.
    """

    node: int
    vmemmap: int
    section_pages: int
    early_sections: frozenset[int] = frozenset()
    mobility_disabled: bool = False


@dataclass(frozen=True)
class Run:
    """`count` neighbouring struct pages that hold the same.

    Args:
        content: the bytes of one of them.
        relative: pairs (offset, addend): the word there holds the address of the unit's first struct page + addend,
            and zero in `content`.
    """

    role: Role
    count: int
    content: bytes
    relative: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Segment:
    """`units` alike, one every `stride` pfns: single pages, or folios.

    A unit's runs are the struct pages that it has memory of its own for. Where they are fewer than `stride`, the rest
    of its memmap is the last page of that memory again (Documentation/mm/vmemmap_dedup.rst).
    """

    first_pfn: int
    units: int
    stride: int
    runs: tuple[Run, ...]

    @property
    def stored(self) -> int:
        """Struct pages of a unit with memory of their own."""
        return sum(run.count for run in self.runs)

    @property
    def pages(self) -> int:
        return self.units * self.stride

    @property
    def end_pfn(self) -> int:
        return self.first_pfn + self.pages


@dataclass(frozen=True)
class Expected:
    """The whole memmap of a range.

    Args:
        untouched: pfns whose struct pages nobody initialises, at the start of an altmap.
        reserve: the altmap's other pages, or None.
        pages: what memmap_init_zone_device() initialises; two segments where the range ends within a folio.
        pageblocks: for each block that begins in the range, its pfn, what its bits must be, and a mask of those that
            can be told: all of them, only those that the bind sets, or none.
    """

    untouched: range
    reserve: Segment | None
    pages: tuple[Segment, ...]
    pageblocks: tuple[tuple[int, int, int], ...]


def expected(truth: RangeTruth, layout: PageLayout, facts: Facts) -> Expected:
    """Return what the memmap of the range must hold.

    Raises:
        HostFailure: a kernel series, a memory type or a shape of range for which nobody has read what must be there.
    """
    if layout.series not in SERIES:
        raise HostFailure(
            f"what a memmap of Linux {layout.series} must hold is not known; known: {', '.join(SERIES)}. Compare its "
            "mm/mm_init.c with vmtests/memmap/expected.py, then add the series there"
        )
    kind = layout.memory_type(truth.type)
    if kind != "GENERIC" and kind not in UNREFERENCED:
        raise HostFailure(f"what the pages of memory type {kind} must hold is not known to vmtests")
    reserve = None
    if truth.altmap and truth.reserve_pages > truth.reserve:
        first = truth.base_pfn + truth.reserve
        reserve = Segment(first, truth.first_pfn - first, 1, (_reserve_page(layout, facts),))
    single = _single(truth, layout, facts, references=0 if kind in UNREFERENCED else 1)
    pages: tuple[Segment, ...] = (Segment(truth.first_pfn, truth.pages, 1, (Run(Role.PAGE, 1, single),)),)
    if truth.vmemmap_shift:
        pages = _folios(truth, layout, facts, single)
    return Expected(
        untouched=range(truth.start_pfn, truth.start_pfn + truth.reserve),
        reserve=reserve,
        pages=pages,
        pageblocks=_pageblocks(truth, layout, facts),
    )


def _page(layout: PageLayout, role: Role, values: dict[str, int]) -> bytes:
    """Return a struct page of zeros (mm_zero_struct_page(), include/linux/mm.h:153-187) with these members set."""
    page = bytearray(layout.size)
    for name, value in values.items():
        field = layout.field(role, name)
        if field is None:
            raise HostFailure(f"struct page of this kernel has no {name} in a {role.value}")
        page[field.offset : field.offset + field.size] = (value % (1 << 8 * field.size)).to_bytes(field.size, "little")
    return bytes(page)


def _flags(layout: PageLayout, facts: Facts) -> int:
    """Return flags after set_page_links(), page_cpupid_reset_last() and __SetPageReserved().

    include/linux/mm.h:2870-2878 and :2479-2482, mm/mm_init.c:992. There is no section field: memory hotplug needs
    SPARSEMEM_VMEMMAP (mm/Kconfig:514-518). KASAN tags and LRU generations start as zero (mm.h:2586-2606).
    """
    return (
        layout.node.place(facts.node)
        | layout.zone.place(layout.zone_device)
        | layout.last_cpupid.ones
        | 1 << layout.reserved
    )


def _common(layout: PageLayout, role: Role) -> dict[str, int]:
    """Return the members that __init_single_page() (mm/mm_init.c:595-611) sets alike on every page."""
    values = {"_mapcount": -1}
    own_cpupid = layout.field(role, "_last_cpupid")
    if own_cpupid is not None:  # it did not fit into the flags (include/linux/mm.h:2469)
        values["_last_cpupid"] = (1 << layout.cpupid_bits) - 1
    return values


def _single(truth: RangeTruth, layout: PageLayout, facts: Facts, *, references: int) -> bytes:
    """__init_zone_device_page(), mm/mm_init.c:977-1022: zone_device_data is NULL, whatever the list head left there."""
    values = {"flags": _flags(layout, facts), "pgmap": truth.pgmap, "_refcount": references}
    return _page(layout, Role.PAGE, values | _common(layout, Role.PAGE))


def _reserve_page(layout: PageLayout, facts: Facts) -> Run:
    """memmap_init_range(), mm/mm_init.c:867-911: __init_single_page() and PG_reserved, nothing of ZONE_DEVICE.

    So one reference, and `lru` an empty list: both words point at the page's own list head.
    """
    role = Role.RESERVE
    content = _page(layout, role, {"flags": _flags(layout, facts), "_refcount": 1} | _common(layout, role))
    head = _offset(layout, role, "lru.next")
    return Run(role, 1, content, ((head, head), (_offset(layout, role, "lru.prev"), head)))


def _offset(layout: PageLayout, role: Role, name: str) -> int:
    field = layout.field(role, name)
    if field is None:
        raise HostFailure(f"struct page of this kernel has no {name} in a {role.value}")
    return field.offset


def _folios(truth: RangeTruth, layout: PageLayout, facts: Facts, single: bytes) -> tuple[Segment, ...]:
    """memmap_init_compound(), mm/mm_init.c:1050-1075: head, tails, then the folio's own data in tails 1 and 2.

    Heads are at multiples of the folio's size from the first page on (:1100), wherever that is; so the last folio may
    begin less than its size before the range's end.
    """
    order = truth.vmemmap_shift
    stride = 1 << order
    if order < 2:
        raise HostFailure(f"what folios of order {order} must hold is not known: tails 1 and 2 keep their data")
    flags = _flags(layout, facts)
    head = bytearray(single)
    at = _offset(layout, Role.PAGE, "flags")
    head[at : at + 8] = (flags | 1 << layout.head).to_bytes(8, "little")  # __SetPageHead()
    first = (
        Run(Role.PAGE, 1, bytes(head)),
        _tail_1(layout, flags, order),
        _tail_2(layout, flags, order),
    )

    def folios(first_pfn: int, units: int, pages: int, stored: int) -> Segment:
        rest = min(stored, pages) - len(first)
        tails = _tail(layout, Role.TAIL, flags, order, rest, {"mapping": layout.tail_mapping})
        return Segment(first_pfn, units, pages, (*first, tails))

    segments = []
    for first_pfn, end_pfn, stored in _storage(truth, layout, facts):
        whole, cut = divmod(end_pfn - first_pfn, stride)
        if whole:
            segments.append(folios(first_pfn, whole, stride, stored))
        if cut:
            segments.append(folios(end_pfn - cut, 1, cut, stored))
    return tuple(segments)


def _storage(truth: RangeTruth, layout: PageLayout, facts: Facts) -> Iterator[tuple[int, int, int]]:
    """Yield the range in parts: first pfn, end, and how many struct pages of a folio have memory of their own.

    In a section that exists since boot they all have: its memmap is used as it is (mm/mm_init.c:1029-1048,
    mm/sparse-vmemmap.c:854).
    """
    stride, section = 1 << truth.vmemmap_shift, facts.section_pages
    if not _optimized(truth, layout):
        yield truth.first_pfn, truth.end_pfn, stride
        return
    shared = VMEMMAP_RESERVE_NR * (PAGE_SIZE // layout.size)
    first = truth.first_pfn
    touched = range(first // section, -(-truth.end_pfn // section))
    early = sorted(facts.early_sections.intersection(touched))
    if early and (stride > section or first % stride):
        raise HostFailure(
            f"what folios of order {truth.vmemmap_shift} from pfn {first:#x} on must hold over boot memory (section "
            f"{early[0]}) is not known to vmtests: they reach beyond it"
        )
    for is_early, numbers in itertools.groupby(touched if early else [touched[-1]], facts.early_sections.__contains__):
        end = min(truth.end_pfn, (list(numbers)[-1] + 1) * section)
        yield first, end, stride if is_early else shared
        first = end


def _optimized(truth: RangeTruth, layout: PageLayout) -> bool:
    """vmemmap_can_optimize(), include/linux/mm.h:5193-5217."""
    power_of_two = layout.size & (layout.size - 1) == 0
    memmap_pages = (layout.size << truth.vmemmap_shift) // PAGE_SIZE
    return layout.dax_vmemmap_optimized and not truth.altmap and power_of_two and memmap_pages > VMEMMAP_RESERVE_NR


def _tail(layout: PageLayout, role: Role, flags: int, order: int, count: int, values: dict[str, int]) -> Run:
    """A tail: __init_zone_device_page(), prep_compound_tail() (mm/internal.h:794-800), no reference.

    compound_info replaces pgmap: the head's address or the mask that leads to it (include/linux/page-flags.h:249-277),
    with bit 0 set.
    """
    values = {"flags": flags, "_refcount": 0} | _common(layout, role) | values
    if layout.compound_mask:
        shift = order + layout.size.bit_length() - 1
        values["compound_info"] = -(1 << shift) | 1
        return Run(role, count, _page(layout, role, values))
    return Run(role, count, _page(layout, role, values), ((_offset(layout, role, "compound_info"), 1),))


def _tail_1(layout: PageLayout, flags: int, order: int) -> Run:
    """prep_compound_head(), mm/internal.h:773-792, and folio_set_order(), :735-745: they overwrite TAIL_MAPPING."""
    values = {"_large_mapcount": -1, "_nr_pages_mapped": 0, "_entire_mapcount": -1, "_pincount": 0}
    if layout.mm_id:
        values |= {"_mm_id_mapcount[0]": -1, "_mm_id_mapcount[1]": -1, "_mm_ids": 0}
    if layout.field(Role.TAIL_1, "_nr_pages") is not None:  # NR_PAGES_IN_LARGE_FOLIO: MEMCG or SLAB_OBJ_EXT
        values["_nr_pages"] = 1 << order
    return _tail(layout, Role.TAIL_1, flags & ~0xFF | order, order, 1, values)


def _tail_2(layout: PageLayout, flags: int, order: int) -> Run:
    """INIT_LIST_HEAD(&folio->_deferred_list), mm/internal.h:790-791: both words point at the first of them."""
    run = _tail(layout, Role.TAIL_2, flags, order, 1, {})
    head = 2 * layout.size + _offset(layout, Role.TAIL_2, "_deferred_list.next")
    words = tuple((_offset(layout, Role.TAIL_2, f"_deferred_list.{end}"), head) for end in ("next", "prev"))
    return Run(run.role, 1, run.content, run.relative + words)


def _pageblocks(truth: RangeTruth, layout: PageLayout, facts: Facts) -> tuple[tuple[int, int, int], ...]:
    """pageblock_migratetype_init_range() (mm/mm_init.c:681-693); before the first page memmap_init_range() (:905-910).

    Neither sets a block whose first page it does not initialise, nor more of one than its migratetype and isolation.
    The bits of a section that the range has to itself were zero before (section_activate(), mm/sparse-vmemmap.c:833);
    in one that it shares, a block may still have what an earlier user has set.
    """
    blocks = layout.pageblocks
    movable = blocks.unmovable if facts.mobility_disabled else blocks.movable
    step = 1 << blocks.order
    written = truth.start_pfn + truth.reserve
    first_own = -(-truth.start_pfn // facts.section_pages)
    own = range(first_own * facts.section_pages, truth.end_pfn // facts.section_pages * facts.section_pages)
    found = []
    for pfn in range(-(-truth.start_pfn // step) * step, truth.end_pfn, step):
        is_set = pfn >= written
        mask = blocks.migratetype_mask | blocks.isolate_mask if is_set else 0
        if pfn in own and pfn // facts.section_pages not in facts.early_sections:
            mask = (1 << blocks.bits) - 1
        found.append((pfn, movable if is_set else 0, mask))
    return tuple(found)
