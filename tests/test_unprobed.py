"""Binds of a kernel without kprobes: told by what it prints and by the pgmaps that it has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fake_guest import FakeGuest
from tests.fake_memmap import BASE, truth
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest
from vmtests.memmap import RangeTruth
from vmtests.run import unprobed

ONE, OTHER = truth(), truth(base=BASE + 4096, pages=8192)
MARKS = """\
              sh-101     [000] .....    12.000100: tracing_mark_write: bind 1
              sh-101     [000] .....    12.000300: tracing_mark_write: bound 1
"""


def printed(*pages: int) -> str:
    return "".join(f"[ 1.0] memmap_init_zone_device initialised {count} pages in 7ms\n" for count in pages)


def listening(ranges: tuple[RangeTruth, ...], dmesg: str) -> unprobed.Unprobed:
    fake, oracle = FakeGuest(), SimpleNamespace(ranges=lambda: ranges)
    fake.answers = {"/trace;": MARKS, "dmesg": dmesg}
    return unprobed.Unprobed(cast(Guest, fake), not_checked=unprobed.NOT_CHECKED, oracle=cast(Any, oracle))


def test_the_printed_pages_lead_to_the_pgmap() -> None:
    probes = listening((ONE, OTHER), printed(OTHER.pages, ONE.pages))
    assert [one.truth for one in probes.collect()] == [OTHER, ONE]
    assert probes.marks["bound 1"] - probes.marks["bind 1"] == 200_000
    assert probes.collect() == []  # a line counts once
    assert probes.not_checked


def test_a_count_that_no_pgmap_has_is_the_kernels_fault() -> None:
    with pytest.raises(KernelFailure, match=r"initialised 3071 pages, but the pgmaps are of 3072"):
        listening((ONE,), printed(ONE.pages - 1)).collect()


def test_two_pgmaps_of_one_size_cannot_be_told_apart() -> None:
    with pytest.raises(HostFailure, match=r"which 2 pgmaps have"):
        listening((ONE, truth(base=BASE + 4096)), printed(ONE.pages)).collect()


def test_a_kernel_that_says_nothing_is_refused() -> None:
    fake = FakeGuest()
    fake.kernel = SimpleNamespace(name="mute")  # type: ignore[attr-defined]
    fake.answers = {"dynamic_debug": (1, "No such file or directory")}
    with (
        pytest.raises(HostFailure, match=r"kernel mute has no kprobes, .* CONFIG_DYNAMIC_DEBUG"),
        unprobed.listening(cast(Guest, fake), cast(Any, None)),
    ):
        pass


def test_whether_a_kernel_can_be_probed_is_asked_of_the_kernel() -> None:
    fake = FakeGuest()
    assert unprobed.can_be_probed(cast(Guest, fake))
    fake.answers = {"kprobe_events": (1, "")}
    assert not unprobed.can_be_probed(cast(Guest, fake))
