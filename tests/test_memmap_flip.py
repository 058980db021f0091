"""Proof by corruption on memmaps made by hand: which bits are flipped; a check that sees less is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fake_memmap import BASE, LAYOUT, VMEMMAP, FakeAccess, FakeGuest, devdax, devdax_in_ram, fsdax, truth
from vmtests.memmap import flip
from vmtests.memmap.access import Live
from vmtests.memmap.check import check
from vmtests.memmap.expected import Facts, expected
from vmtests.memmap.flip import Flip, plan, prove
from vmtests.memmap.result import MemmapResult
from vmtests.memmap.truth import RangeTruth

#: kind of namespace -> how its files are made, and the truth about it
KINDS: dict[str, tuple[Callable[[Path], FakeGuest], RangeTruth]] = {
    "fsdax-dev": (fsdax, truth()),
    "devdax-2m-dev": (devdax, truth(kind=4, order=9)),
    "devdax-2m-mem": (devdax_in_ram, truth(kind=4, order=9, pages=2048, altmap=False)),
}
GIGANTIC = truth(kind=4, order=18, pages=100 << 18, altmap=False)


def planned(seen: RangeTruth, count: int, seed: int = 1) -> tuple[Flip, ...]:
    facts = Facts(node=0, vmemmap=VMEMMAP, section_pages=1 << 15)
    return plan(expected(seen, LAYOUT, facts), LAYOUT, count, seed)


def kind_of(one: Flip, seen: RangeTruth) -> tuple[str, bool]:
    """Return what kind of struct page a flip is in, and whether that is shared."""
    if one.pfns[0] < seen.first_pfn:
        return "reserve", False
    inside = (one.pfns[0] - seen.first_pfn) % (1 << seen.vmemmap_shift)
    names = {0: "head", 1: "tail 1", 2: "tail 2"} if seen.vmemmap_shift else {}
    return names.get(inside, "other"), len(one.pfns) > 1


class Stopping:
    """A monitor that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def execute(self, command: str, **_: Any) -> None:
        self.told.append(command)


def stoppable(guest: FakeGuest) -> FakeAccess:
    access = guest.access()
    access.source = Live(Stopping())
    return access


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_and_no_struct_page_twice(kind: str) -> None:
    """A thousand are enough for every byte of every kind of struct page."""
    flips = planned(KINDS[kind][1], 1000)
    seen: dict[tuple[str, bool], set[int]] = {}
    for one in flips:
        seen.setdefault(kind_of(one, KINDS[kind][1]), set()).add(one.offset)
    scarce = {"head", "tail 1", "tail 2"}  # this namespace has but a few folios
    assert {name for name, offsets in seen.items() if len(offsets) < 64} <= {(name, False) for name in scarce}
    assert {one.bit for one in flips} == set(range(8))
    pfns = [pfn for one in flips for pfn in one.pfns]
    assert len(set(pfns)) == len(pfns)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ends_come_first(kind: str) -> None:
    seen = KINDS[kind][1]
    pfns = {pfn for one in planned(seen, 20) for pfn in one.pfns}
    assert {seen.first_pfn, seen.end_pfn - 1} <= pfns
    if seen.altmap:
        assert {BASE + 2, seen.first_pfn - 1} <= pfns


def test_every_kind_of_struct_page() -> None:
    seen = KINDS["devdax-2m-dev"][1]
    places = [(one.pfns[0] - seen.first_pfn) % 512 for one in planned(seen, 25) if one.pfns[0] >= seen.first_pfn]
    assert {0, 1, 2, 3, 511} <= set(places)
    assert len(places) == 20
    assert {len(one.pfns) for one in planned(KINDS["devdax-2m-mem"][1], 25)} == {1, 7}


def test_the_seed_decides() -> None:
    seen = KINDS["fsdax-dev"][1]
    assert planned(seen, 50) == planned(seen, 50)
    assert planned(seen, 50) != planned(seen, 50, seed=2)


def test_flips_that_stand_for_thousands_of_pages_each_are_as_few_as_a_struct_page_has_bytes() -> None:
    flips = planned(GIGANTIC, 1000)
    shared = [one for one in flips if len(one.pfns) > 1]
    assert len(flips) == 1000
    assert {len(one.pfns) for one in shared} == {1 + (262144 - 128) // 64}
    assert sorted(one.offset for one in shared) == list(range(64))
    assert shared[1].pfns[-1] == GIGANTIC.end_pfn - 1


@pytest.mark.parametrize("kind", KINDS)
def test_all_flips_are_found_and_undone(kind: str, tmp_path: Path) -> None:
    make, seen = KINDS[kind]
    guest = make(tmp_path)
    access = stoppable(guest)
    before = guest.ram.read_bytes(), guest.nvdimm.read_bytes()
    proof = prove(access, seen, node=0, count=300, seed=7)
    assert proof.passed, str(proof)
    assert len(proof.flips) == 300
    assert (guest.ram.read_bytes(), guest.nvdimm.read_bytes()) == before
    assert access.source.monitor.told == ["stop", "cont"]  # type: ignore[attr-defined]


def blind(result: MemmapResult) -> MemmapResult:
    return replace(result, examples=result.examples[1:])


def inventive(result: MemmapResult) -> MemmapResult:
    return replace(result, examples=(*result.examples, replace(result.examples[0], pfn=1)))


def wrong_bit(result: MemmapResult) -> MemmapResult:
    first = result.examples[0]
    return replace(result, examples=(replace(first, got=hex(int(first.got, 0) ^ 6)), *result.examples[1:]))


def miscounting(result: MemmapResult) -> MemmapResult:
    return replace(result, mismatches=result.mismatches - 1)


@pytest.mark.parametrize(
    ("fault", "missed", "invented", "surplus"),
    [(blind, 1, 0, 0), (inventive, 0, 1, 0), (wrong_bit, 1, 0, 0), (miscounting, 0, 0, -1)],
)
def test_a_check_that_errs_is_found_out(
    fault: Callable[[MemmapResult], MemmapResult],
    missed: int,
    invented: int,
    surplus: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def erring(*arguments: object, **keywords: object) -> MemmapResult:
        result = check(*arguments, **keywords)  # type: ignore[arg-type]
        return fault(result) if result.mismatches else result

    monkeypatch.setattr(flip, "check", erring)
    proof = prove(stoppable(fsdax(tmp_path)), truth(), node=0, count=64, seed=7)
    assert (len(proof.missed), len(proof.invented), proof.surplus) == (missed, invented, surplus)
    assert not proof.passed


def test_a_memmap_that_was_not_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flip, "toggle", lambda *_: None)
    guest = fsdax(tmp_path)
    guest.write((4 << 30) + (2 << 20) + 64 * 1024 + 52, b"\1")
    proof = prove(stoppable(guest), truth(), node=0, count=1, seed=7)
    assert not proof.restored.passed
    assert not proof.passed
    assert "after the flips were undone" in str(proof)


def test_an_error_inside_undoes_the_flips(tmp_path: Path) -> None:
    guest = fsdax(tmp_path)
    access, before = stoppable(guest), guest.nvdimm.read_bytes()
    flips = planned(truth(), 10)

    def fails() -> None:
        with flip.flipped(access, truth(), flips):
            assert guest.nvdimm.read_bytes() != before
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        fails()
    assert guest.nvdimm.read_bytes() == before
    assert access.source.monitor.told == ["stop", "cont"]  # type: ignore[attr-defined]
