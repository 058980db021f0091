"""Each patch of the series alone: what it leaves in the memmap, and how many instructions a struct page takes."""

import statistics
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from vmtests.errors import KernelFailure
from vmtests.memmap.difference import Digest, compare
from vmtests.memmap.layout import PageLayout
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.record import DifferenceEntry
from vmtests.run.bench import Bench
from vmtests.run.run import Run

BASE = "base"
#: The kernels of the series in the order of its patches.
SERIES = ("patched-1", "patched-2", "patched-3", "patched")

#: Two folios of 1 GiB beside the memmap.
PMEM_BYTES = 4 << 30
REBINDS = 2

#: Instructions for a struct page that is copied, at most: it has 8 words.
COPIED = 20.0

#: By how much a count may grow where code only moves: a folio takes some 8 instructions more, for calls.
MOVED = 1.005

#: From which kernel on the pages of a kind are copied.
COPIED_FROM = {"fsdax": "patched-2", "devdax-4k": "patched-2", "devdax-2m": "patched-3", "devdax-1g": "patched-3"}

QUICK_KINDS = ("fsdax-dev", "devdax-2m-dev")

Lend = Callable[[NamespaceSpec], AbstractContextManager[Bench]]


@dataclass(frozen=True)
class Left:
    """What a bind left in the memmap, and what it took.

    Attributes:
        digest, layout: the memmap.
        count: instructions for each struct page with memory of its own.
        dense: every page of the range has one; else what is done for the range as a whole outweighs them.
    """

    digest: Digest
    layout: PageLayout
    count: float
    dense: bool


@pytest.fixture(scope="module")
def base(run: Run, request: pytest.FixtureRequest) -> dict[str, Left]:
    """What the base kernel leaves, by the kind's name: for all kinds that are asked for, in one guest."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked = {item.callspec.params["kind"] for item in here if item.module is request.module}
    kinds = [kind for kind in KINDS if kind in asked]
    with run.in_turns(BASE, pmem_size=PMEM_BYTES, clock="icount") as lend:
        return {kind.id: procedure(lend, kind) for kind in kinds}


@pytest.fixture(scope="module")
def lend(run: Run, step: str) -> Iterator[Lend]:
    """One guest of each kernel serves all kinds in turn."""
    with run.in_turns(step, pmem_size=PMEM_BYTES, clock="icount") as lend:
        yield lend


def procedure(lend: Lend, kind: NamespaceSpec) -> Left:
    """Look at every struct page after the first bind, after rebinds, which are counted, and over poison."""
    with lend(kind) as bench:
        first = bench.create_namespace()
        bench.check_memmap(first)
        rebinds = bench.rebind(REBINDS)
        bench.check_memmap(rebinds[-1])
        poisoned = bench.rebind_over_poison(REBINDS + 1)
        bench.check_memmap(poisoned)
        segments = bench.oracle.segments(bench.namespace, first.truth)
        stored = sum(segment.units * segment.stored for segment in segments)
        return Left(
            digest=bench.oracle.digest(bench.namespace, poisoned.truth),
            layout=bench.oracle.access.layout,
            count=statistics.median(bind.entry.duration_ns for bind in rebinds) / stored,
            dense=stored == first.truth.pages,
        )


def quick(name: str, chosen: Collection[str]) -> tuple[pytest.MarkDecorator, ...]:
    """Return the marks of a parameter: the full tier's, unless it is one of those chosen for the quick one."""
    return () if name in chosen else (pytest.mark.full,)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.id, marks=quick(kind.id, QUICK_KINDS)) for kind in KINDS])
@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=quick(step, SERIES[-1:])) for step in SERIES], scope="module"
)
def test_each_patch(run: Run, base: dict[str, Left], lend: Lend, step: str, kind: NamespaceSpec) -> None:
    """The memmap is that of the base, byte for byte, and the count of instructions what the patch promises."""
    ours, theirs = procedure(lend, kind), base[kind.id]
    difference = compare(theirs.digest, ours.digest, ours.layout)
    run.record.add(
        DifferenceEntry(
            base=BASE,
            patched=step,
            namespace=kind.id,
            pages_compared=difference.pages_compared,
            mismatches=difference.mismatches,
        )
    )
    keep(run, f"{step:10} {kind.id:14} {ours.count:7.2f} instructions a struct page, base {theirs.count:.2f}")
    difference.verify(f"{BASE} and {step}, {kind.id}")
    copied = SERIES.index(step) >= SERIES.index(COPIED_FROM[kind.id.rpartition("-")[0]])
    limit = COPIED if copied and ours.dense else theirs.count * MOVED
    if ours.count > limit:
        raise KernelFailure(
            f"kernel {step} takes {ours.count:.2f} instructions a struct page of {kind.id}, the base "
            f"{theirs.count:.2f}; it must be {limit:.2f} or fewer"
        )


def keep(run: Run, line: str) -> None:
    """Say a line, and keep it beside the record."""
    run.progress.say(f"  {line}")
    run.record.add_line("series", line)
