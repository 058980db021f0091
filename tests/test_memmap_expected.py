"""What a memmap must hold, against bytes written out by hand for one documented config (see fake_memmap.LAYOUT)."""

import ast
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fake_memmap import BASE, LAYOUT, VMEMMAP, folio, truth
from vmtests.errors import HostFailure
from vmtests.memmap.expected import Facts, Segment, expected
from vmtests.memmap.layout import Bits, Field, PageLayout, Role
from vmtests.memmap.truth import RangeTruth

FACTS = Facts(node=0, vmemmap=VMEMMAP, section_pages=1 << 15)


def contents(segment: Segment, unit: int = 0) -> list[bytes]:
    """Return the struct pages of one unit, the addresses filled in."""
    here = VMEMMAP + 64 * (segment.first_pfn + unit * segment.stride)
    pages = []
    for run in segment.runs:
        page = bytearray(run.content)
        for offset, addend in run.relative:
            assert page[offset : offset + 8] == bytes(8)
            page[offset : offset + 8] = (here + addend).to_bytes(8, "little")
        pages += [bytes(page)] * run.count
    return pages


def words(page: bytes) -> list[str]:
    """Return the 64-bit words as a debugger shows them."""
    return [f"{int.from_bytes(page[at : at + 8], 'little'):016x}" for at in range(0, len(page), 8)]


def test_a_page_of_fsdax() -> None:
    want = expected(truth(), LAYOUT, FACTS)
    assert (want.pages[0].first_pfn, want.pages[0].units, want.pages[0].stride) == (BASE + 1024, 3072, 1)
    (page,) = contents(want.pages[0])
    assert words(page) == [
        "0300000000002000",  # zone 3 above bit 56, PG_reserved
        "ff11000002345678",  # pgmap, over the list head
        "0000000000000000",  # zone_device_data
        "0000000000000000",  # mapping
        "0000000000000000",  # index
        "0000000000000000",  # private
        "00000000ffffffff",  # _mapcount -1, _refcount 0
        "0000000000000000",  # padding
    ]


def test_a_page_of_devdax_has_one_reference() -> None:
    (page,) = contents(expected(truth(kind=4), LAYOUT, FACTS).pages[0])
    assert words(page)[6] == "00000001ffffffff"


def test_a_reserve_page_is_an_empty_list_on_no_pgmap() -> None:
    want = expected(truth(), LAYOUT, FACTS)
    assert want.untouched == range(BASE, BASE + 2)
    assert want.reserve is not None
    assert (want.reserve.first_pfn, want.reserve.end_pfn) == (BASE + 2, BASE + 1024)
    (page,) = contents(want.reserve, unit=1)
    assert words(page) == [
        "0300000000002000",
        "ffd40000040000c8",  # pfn 0x100003: its own struct page + 8
        "ffd40000040000c8",
        "0000000000000000",
        "0000000000000000",
        "0000000000000000",
        "00000001ffffffff",
        "0000000000000000",
    ]


def test_a_folio_of_2_mib() -> None:
    want = expected(truth(kind=4, order=9), LAYOUT, FACTS).pages[0]
    assert (want.units, want.stride, want.stored) == (6, 512, 512)
    head, first, second, third, *rest = contents(want, unit=1)  # pfn 0x100600, struct page ffd4000004018000
    assert words(head)[:3] == ["0300000000002040", "ff11000002345678", "0000000000000000"]
    assert words(head)[6] == "00000001ffffffff"
    assert words(first) == [
        "0300000000002009",  # the order in the low byte
        "ffd4000004018001",  # the head, bit 0 set
        "00000000ffffffff",  # _large_mapcount -1, _nr_pages_mapped 0
        "00000000ffffffff",  # _entire_mapcount -1, _pincount 0
        "ffffffffffffffff",  # _mm_id_mapcount -1, -1
        "0000000000000000",  # _mm_ids
        "00000000ffffffff",
        "0000000000000000",
    ]
    assert words(second) == [
        "0300000000002000",
        "ffd4000004018001",
        "ffd4000004018090",  # _deferred_list: tail 2 + 16
        "ffd4000004018090",
        "0000000000000000",
        "0000000000000000",
        "00000000ffffffff",
        "0000000000000000",
    ]
    assert words(third) == [
        "0300000000002000",
        "ffd4000004018001",
        "0000000000000000",
        "dead000000000400",  # TAIL_MAPPING
        "0000000000000000",
        "0000000000000000",
        "00000000ffffffff",
        "0000000000000000",
    ]
    assert rest == [third] * 508


def test_the_hand_made_folio_of_the_other_tests_is_the_same() -> None:
    want = expected(truth(kind=4, order=9), LAYOUT, FACTS).pages[0]
    assert contents(want, unit=2) == folio(BASE + 2048, 9)


def test_a_folio_in_ram_owns_two_pages_of_memmap() -> None:
    for order in (9, 18):
        want = expected(truth(pages=1 << 19, kind=4, order=order, altmap=False), LAYOUT, FACTS).pages[0]
        assert (want.stored, want.stride) == (128, 1 << order)


def test_a_range_that_ends_within_a_folio() -> None:
    whole, cut = expected(truth(kind=4, order=9, pages=4096 - 192), LAYOUT, FACTS).pages
    assert (whole.first_pfn, whole.units, whole.stride) == (BASE + 1024, 5, 512)
    assert (cut.first_pfn, cut.units, cut.stride, cut.stored) == (BASE + 3584, 1, 320, 320)
    assert contents(cut) == folio(BASE + 3584, 9)[:320]
    (only,) = expected(truth(kind=4, order=18, pages=2048, altmap=False), LAYOUT, FACTS).pages
    assert (only.units, only.stride, only.stored) == (1, 2048, 128)


def with_memcg(role: Role) -> tuple[Field, ...]:
    extra = Field("_nr_pages", 56, 4) if role is Role.TAIL_1 else Field("memcg_data", 56, 8)
    return (*LAYOUT.fields[role], extra)


def test_another_config() -> None:
    # HUGETLB_PAGE_OPTIMIZE_VMEMMAP, MEMCG, ZONE_DMA (5 zones), NUMA_BALANCING with 64 CPUs, node 1.
    layout = replace(
        LAYOUT,
        fields={role: with_memcg(role) for role in Role},
        zone=Bits(55, 3),
        zone_device=4,
        last_cpupid=Bits(41, 14),
        cpupid_bits=14,
        compound_mask=True,
    )
    want = expected(truth(kind=4, order=9), layout, replace(FACTS, node=1)).pages[0]
    head, first, second, third = contents(want)[:4]
    assert words(head)[0] == "067ffe0000002040"
    assert words(first)[1] == words(second)[1] == words(third)[1] == "ffffffffffff8001"
    assert words(first)[7] == "0000000000000200"  # _nr_pages
    assert words(second)[7] == words(head)[7] == "0000000000000000"
    giant = expected(truth(pages=1 << 19, kind=4, order=18, altmap=False), layout, FACTS).pages[0]
    assert words(contents(giant)[5])[1] == "ffffffffff000001"


def test_pageblocks_are_movable_but_for_the_one_that_nobody_sets() -> None:
    """Of a section that is not the range's alone, only what the bind sets is known: migratetype and isolation."""
    first, *others = expected(truth(), LAYOUT, FACTS).pageblocks
    assert first == (BASE, 0, 0)
    assert others == [(pfn, 1, 0b10111) for pfn in range(BASE + 512, BASE + 4096, 512)]
    assert expected(truth(altmap=False), LAYOUT, FACTS).pageblocks[0] == (BASE, 1, 0b10111)
    small = replace(FACTS, mobility_disabled=True)
    assert {bits for _, bits, _ in expected(truth(altmap=False), LAYOUT, small).pageblocks} == {0}


def test_pageblocks_of_sections_that_are_the_ranges_alone() -> None:
    """Two sections and a half: in the whole ones every bit is known, and nobody sets the first block."""
    blocks = expected(truth(pages=5 << 14), LAYOUT, FACTS).pageblocks
    assert [block[1:] for block in blocks] == [(0, 0xFF)] + [(1, 0xFF)] * 127 + [(1, 0b10111)] * 32
    late = expected(truth(pages=1 << 15, altmap=False, base=BASE + 512), LAYOUT, FACTS).pageblocks
    assert {mask for _, _, mask in late} == {0b10111}
    early = replace(FACTS, early_sections=frozenset({BASE >> 15}))
    assert {mask for _, _, mask in expected(truth(pages=1 << 15), LAYOUT, early).pageblocks} == {0, 0b10111}


@pytest.mark.parametrize(
    ("range_truth", "layout", "reason"),
    [
        (truth(), replace(LAYOUT, series="9.9"), r"Linux 9\.9 must hold is not known; known: 7\.3"),
        (truth(kind=9), LAYOUT, "memory type 9"),
        (truth(kind=4, order=1), LAYOUT, "order 1"),
    ],
)
def test_what_nobody_knows_is_refused(range_truth: RangeTruth, layout: PageLayout, reason: str) -> None:
    with pytest.raises(HostFailure, match=reason):
        expected(range_truth, layout, FACTS)


def test_folios_over_boot_memory_have_all_their_memmap() -> None:
    boot = replace(FACTS, early_sections=frozenset({BASE >> 15}))
    half = truth(kind=4, order=9, altmap=False, base=BASE + (1 << 14), pages=1 << 16)
    early, late = expected(half, LAYOUT, boot).pages
    assert (early.first_pfn, early.units, early.stored) == (BASE + (1 << 14), 32, 512)
    assert (late.first_pfn, late.units, late.stored) == (BASE + (1 << 15), 96, 128)
    assert late.end_pfn == half.end_pfn
    (alike,) = expected(half, LAYOUT, FACTS).pages
    assert (alike.first_pfn, alike.units, alike.stored) == (early.first_pfn, 128, 128)


@pytest.mark.parametrize(("order", "base"), [(18, BASE), (9, BASE + 64)])
def test_folios_that_reach_beyond_boot_memory_are_refused(order: int, base: int) -> None:
    facts = replace(FACTS, early_sections=frozenset({BASE >> 15}))
    with pytest.raises(HostFailure, match=f"folios of order {order} .* boot memory"):
        expected(truth(kind=4, order=order, altmap=False, base=base, pages=1 << 16), LAYOUT, facts)


def test_it_imports_no_reader() -> None:
    """The expected bytes cannot come from a memmap: nothing that could read one is imported, directly or not."""
    allowed = {"__future__", "collections.abc", "dataclasses", "enum", "errno", "itertools", "shlex", "pathlib"}
    seen: set[str] = set()
    todo = ["vmtests.memmap.expected"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for imported in names:
                assert imported is not None
                if imported not in allowed:
                    todo.append(imported)
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            assert called not in {"open", "__import__", "eval", "exec"}
    assert seen == {
        "vmtests.errors",
        "vmtests.memmap.expected",
        "vmtests.memmap.layout",
        "vmtests.memmap.truth",
    }
