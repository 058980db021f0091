"""The range that a probe saw, and the witnesses that must agree with it."""

from dataclasses import replace

import pytest

from tests.fake_memmap import BASE, truth
from vmtests.errors import KernelFailure


def test_the_altmap_is_not_initialised_again() -> None:
    # 100 GiB from 4 GiB on, as seen in a guest: 26214400 pages of which 410112 hold the memmap.
    seen = replace(truth(), nr_pages=26214400, free=410110)
    assert (seen.first_pfn, seen.end_pfn, seen.pages) == (BASE + 410112, BASE + 26214400, 25804288)


def test_without_altmap_all_pages_are() -> None:
    seen = truth(altmap=False)
    assert (seen.first_pfn, seen.pages, seen.reserve_pages) == (BASE, 4096, 0)


def test_an_altmap_that_begins_elsewhere_is_the_kernels_fault() -> None:
    with pytest.raises(KernelFailure, match="altmap begins at pfn 0x100001"):
        replace(truth(), base_pfn=BASE + 1)


def test_an_altmap_that_leaves_nothing_is_the_kernels_fault() -> None:
    with pytest.raises(KernelFailure, match="leave nothing"):
        replace(truth(), free=4094)


@pytest.mark.parametrize("change", [{"nr_pages": 0}, {"pgmap": 0}, {"altmap": False}, {"flags": 0}])
def test_what_no_probe_can_say_is_our_bug(change: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        replace(truth(), **change)  # type: ignore[arg-type]


def test_the_pr_debug_line_must_agree() -> None:
    truth().confirm(printed_pages=3072)
    with pytest.raises(KernelFailure, match="initialised 3071 pages, its arguments mean 3072"):
        truth().confirm(printed_pages=3071)


def test_sysfs_must_agree() -> None:
    truth().confirm(resource=(BASE + 1024) << 12)
    with pytest.raises(KernelFailure, match="pfn 0x100400"):
        truth().confirm(resource=BASE << 12)
