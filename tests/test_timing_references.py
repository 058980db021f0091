from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fake_guest import FakeGuest
from vmtests.errors import HostFailure, KernelFailure
from vmtests.memmap import RangeTruth
from vmtests.memmap.expected import Run, Segment
from vmtests.memmap.layout import Role
from vmtests.timing import references
from vmtests.timing.references import Seen

TRUTH = RangeTruth(0x100000, 1024, 0xFF11000000F8C8B8, 0x100000, 2, 510, True, 3, 1, 0)

HIST = """\
# event histogram
#
# trigger info: hist:keys=val:vals=hitcount:sort=hitcount:size=2048 if pfn >= 0x100200 && pfn < 0x100400 [active]
#

{ val:          0 } hitcount:        512
{ val:          1 } hitcount:        512

Totals:
    Hits: %d
    Entries: 2
    Dropped: %d
"""
NONE = "# event histogram\n\nTotals:\n    Hits: 0\n    Entries: 0\n    Dropped: 0\n"
STATS = "entries: 7\noverrun: %d\ncommit overrun: 0\nbytes: 100\ndropped events: 0\nread events: 9\n"


def pages(count: int) -> Segment:
    return Segment(0x100200, count, 1, (Run(Role.PAGE, 1, b""),))


def folios(units: int, stored: int) -> Segment:
    return Segment(0x100200, units, 512, (Run(Role.PAGE, 1, b""), Run(Role.TAIL, stored - 1, b"")))


def test_events_of_the_slow_path() -> None:
    assert references.slow_path(TRUTH, [pages(512)], referenced=False) == {0: 512, 1: 512}
    assert references.slow_path(TRUTH, [pages(512)], referenced=True) == {1: 512}
    compound = replace(TRUTH, vmemmap_shift=9)
    assert references.slow_path(compound, [folios(2, 512)], referenced=True) == {0: 1022, 1: 1024}
    assert references.slow_path(compound, [folios(2, 128)], referenced=True) == {0: 254, 1: 256}


def guest(hist: str = HIST % (1024, 0), stats: str = STATS % 5) -> FakeGuest:
    made = FakeGuest()
    made.answers = {
        "/proc/iomem": "7ffdffff\n",
        "stats": f"{stats}=====\n{STATS % 0}=====\n",
        "/hist;": f"{hist}=====\n{NONE}",
    }
    return made


def test_counts_what_the_histogram_has() -> None:
    with references.armed(guest(), TRUTH) as events:  # type: ignore[arg-type]
        events.count()
        assert events.counted() == Seen({0: 512, 1: 512}, 0)


def test_the_ranges_are_the_pages_and_what_is_no_page() -> None:
    used = guest()
    with references.armed(used, TRUTH):  # type: ignore[arg-type]
        pass
    assert "'pfn >= 0x100200 && pfn < 0x100400'" in used.seen[1]
    assert "'pfn > 0x7ffdf && (pfn < 0x100000 || pfn >= 0x100400)'" in used.seen[1]
    assert "rmdir" in used.seen[-1]


@pytest.mark.parametrize("hist", [HIST % (1024, 1), HIST % (1025, 0), "no histogram"])
def test_lost_events_prove_nothing(hist: str) -> None:
    with (
        references.armed(guest(hist), TRUTH) as events,  # type: ignore[arg-type]
        pytest.raises(KernelFailure, match="has lost events"),
    ):
        events.counted()


def test_what_the_ring_buffer_overwrote_is_counted() -> None:
    with references.armed(guest(), TRUTH) as events:  # type: ignore[arg-type]
        events.toggle()
        assert events.toggled() == (12, 7)


def test_a_kernel_without_the_event() -> None:
    used = guest()
    used.answers = {"/proc/iomem": "7ffdffff\n", "filter": (1, "nonexistent directory")}
    with (
        pytest.raises(HostFailure, match="needs CONFIG_DEBUG_PAGE_REF"),
        references.armed(used, TRUTH),  # type: ignore[arg-type]
    ):
        pass


def test_compare() -> None:
    references.compare({0: 5, 1: 5}, Seen({1: 5, 0: 5}, 0), "base")
    with pytest.raises(KernelFailure, match="patched: the events") as failure:
        references.compare({0: 5, 1: 5}, Seen({1: 3}, 0), "patched")
    assert failure.value.output == "set to 0: 0 events, must be 5\nset to 1: 3 events, must be 5"
    with pytest.raises(KernelFailure, match="2 events of page_ref_set are of struct pages that are no pages"):
        references.compare({1: 5}, Seen({1: 5}, 2), "patched")
