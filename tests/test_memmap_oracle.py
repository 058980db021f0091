"""What the oracle asks before it believes a probe, and what it remembers between two binds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fake_memmap import BASE, MEMMAP, PGMAP, FakeGuest, address, fsdax, reserve_page, truth
from vmtests.errors import KernelFailure
from vmtests.memmap.oracle import Oracle


@dataclass(frozen=True)
class Namespace:
    """What the oracle wants to know of a namespace."""

    id: str = "fsdax-dev"
    name: str = "namespace0.0"
    device: str = "pfn0.0"
    mode: str = "fsdax"
    align_bytes: int = 2 << 20
    map: str = "dev"
    start: int = BASE << 12
    size_bytes: int = 4096 << 12
    data_start: int = (BASE + 1024) << 12


class Guest:
    """Answers the one question about nodes."""

    def __init__(self, answer: str = "-1 1") -> None:
        self.answer = answer

    def run(self, script: str) -> SimpleNamespace:
        assert "numa_node" in script
        return SimpleNamespace(stdout=self.answer + "\n")


def oracle(guest: FakeGuest, answer: str = "-1 1") -> Oracle:
    return Oracle(Guest(answer), guest.access())  # type: ignore[arg-type]


NAMESPACE: Any = Namespace()


def test_a_right_memmap(tmp_path: Path) -> None:
    assert oracle(fsdax(tmp_path)).check(NAMESPACE, truth()).passed


def test_the_node_is_the_devices(tmp_path: Path) -> None:
    assert set(oracle(fsdax(tmp_path), "1 2").check(NAMESPACE, truth()).histogram) == {"flags", "flags (reserve page)"}


def test_a_device_without_node_in_a_guest_of_two(tmp_path: Path) -> None:
    with pytest.raises(KernelFailure, match=r"pfn0\.0 has no node although the guest has 2"):
        oracle(fsdax(tmp_path), "-1 2").check(NAMESPACE, truth())


@pytest.mark.parametrize(
    ("namespace", "reason"),
    [
        (Namespace(start=(BASE + 512) << 12), "is pfn 0x100200"),
        (Namespace(size_bytes=4095 << 12), "was called for 0x100000 to 0x101000"),
        (Namespace(map="mem"), "has map=mem"),
        (Namespace(data_start=(BASE + 512) << 12), "data begin at 0x100200000 by sysfs"),
    ],
)
def test_a_probe_that_saw_another_range(namespace: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(KernelFailure, match=reason):
        oracle(fsdax(tmp_path)).check(namespace, truth())


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (truth(pages=4096 - 512), r"was called for .*nr_pages=3584.* but after the bind .* is of .*nr_pages=4096"),
        (replace(truth(), start_pfn=BASE - 512, base_pfn=BASE - 512), r"pfn 0xffe00 is of no pgmap"),
    ],
    ids=["too-short", "too-early"],
)
def test_a_call_for_another_range_than_its_pgmaps(seen: Any, said: str, tmp_path: Path) -> None:
    asked = oracle(fsdax(tmp_path))
    asked.access.bound = truth()  # type: ignore[attr-defined]
    asked.saw(NAMESPACE, truth())
    with pytest.raises(KernelFailure, match=said):
        asked.saw(NAMESPACE, seen)


@pytest.mark.parametrize(
    ("namespace", "seen"),
    [
        (NAMESPACE, truth(kind=4)),
        (NAMESPACE, truth(order=9)),
        (Namespace(mode="devdax"), truth(order=9)),
        (Namespace(mode="devdax"), truth(kind=4)),
        (Namespace(mode="devdax", align_bytes=1 << 30), truth(kind=4, order=9)),
        (Namespace(mode="devdax", align_bytes=4096), truth(kind=4, order=9)),
    ],
)
def test_pages_of_another_kind_than_the_namespaces(namespace: Any, seen: Any, tmp_path: Path) -> None:
    asked = oracle(fsdax(tmp_path))
    asked.access.bound = seen  # type: ignore[attr-defined]
    with pytest.raises(KernelFailure, match=r"of type \w+ and order \d+, must be (FS_DAX and 0|GENERIC and \d+)$"):
        asked.saw(namespace, seen)


def test_poison_belongs_to_one_bind(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    # The namespace fills its section, else its memmap would lie in RAM.
    namespace: Any = Namespace(size_bytes=1 << 27)
    asked = oracle(guest)
    assert asked.check(namespace, truth()).passed
    applied = asked.poison(namespace)
    assert applied.starts.tolist() == [(BASE << 12) + (2 << 20)]
    assert applied.ends.tolist() == [(BASE << 12) + (4 << 20)]
    with guest.access().memory() as memory:
        assert memory.read(MEMMAP + 4096, 64) == b"\xa5" * 64
        assert memory.read(MEMMAP - 1, 1) == b"\0"
    result = asked.check(namespace, truth(), poisoned=True)  # nothing bound it again: all is poison
    assert (result.poisoned, result.mismatches) == (True, 4094)
    with pytest.raises(RuntimeError, match="nothing was poisoned"):
        asked.check(namespace, truth(), poisoned=True)


def test_the_neighbours_are_remembered_by_poison(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    guest.store(BASE + 4096, [reserve_page(BASE + 4096)] * 64, 8 << 20)
    asked = oracle(guest)
    namespace: Any = Namespace(size_bytes=1 << 27)
    asked.access.bound = truth()  # type: ignore[attr-defined]
    asked.saw(namespace, truth())
    asked.poison(namespace)
    guest.write((8 << 20) + 52, b"\x09")
    result = asked.check(namespace, truth(), poisoned=True, limit=10**6)
    assert [example.pfn for example in result.examples if "outside" in example.field] == [BASE + 4096]


def test_the_digest_is_of_this_namespace(tmp_path: Path) -> None:
    asked = oracle(fsdax(tmp_path))
    assert asked.digest(NAMESPACE, truth()).pages == 4096
    with pytest.raises(KernelFailure):
        asked.digest(NAMESPACE, replace(truth(), start_pfn=BASE + 4096, base_pfn=BASE + 4096))


@pytest.mark.parametrize("mask", [False, True])
def test_the_head_of_a_tail(mask: bool, tmp_path: Path) -> None:
    """Both encodings of compound_info: the head's address, and the mask that leads to it."""
    asked = oracle(fsdax(tmp_path))
    head = BASE + 512
    info = -(512 * 64) % 2**64 if mask else address(head)
    words = {address(head) + 8: PGMAP, address(head + 3) + 8: info | 1}
    asked.access.layout = replace(asked.access.layout, compound_mask=mask)
    asked.access.program = SimpleNamespace(read_u64=words.__getitem__)
    assert [asked.head(pfn) for pfn in (head, head + 3)] == [head, head]
