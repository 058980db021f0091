"""The tracepoint page_ref_set: while it is on, a bind emits the events of the slow path, with a fast path too."""

import pytest

from vmtests.errors import HostFailure, KernelFailure
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run
from vmtests.timing import references
from vmtests.timing.rebind import Bind

GIB = 1 << 30

QUICK = ("fsdax-dev",)

#: How often a bind is begun until the tracepoint was switched while it ran; the guest has one CPU.
TRIES = 5


def size_of(kind: NamespaceSpec) -> int:
    """Return a size of NVDIMM with at least 3 sections, and 3 folios, of data."""
    return 4 * GIB if kind.align_bytes == GIB else GIB


def count_events(bench: Bench, last: Bind) -> Bind:
    """Switch the event on, bind over poison, hold the events against those of the slow path, and return that bind."""
    wanted = wanted_events(bench, last)
    with references.armed(bench.guest, last.truth) as events:
        bind = bench.rebind_over_poison(last.index + 1, unbound=events.count)
        seen = events.counted()
    references.compare(wanted, seen, f"kernel {bench.guest.kernel.name}, {bench.namespace.id}")
    bench.check_memmap(bind)
    return bind


def toggle_during_binds(bench: Bench, last: Bind) -> None:
    """Switch the event on and off while a bind runs: no page is wrong, and no event is of a page that does not exist.

    It was switched in the middle of a bind if there were some events of the slow path's, but not all. A kernel that
    loses events may show none, which is for `count_events` to say.

    Raises:
        HostFailure: it never was, so that nothing is known.
    """
    everything = sum(wanted_events(bench, last).values())
    for index in range(last.index + 1, last.index + 1 + TRIES):
        with references.armed(bench.guest, last.truth) as events:
            bind = bench.rebind_over_poison(index, unbound=events.toggle)
            seen, strays = events.toggled()
        if strays:
            raise KernelFailure(f"{strays} events of page_ref_set are of struct pages that are no pages")
        bench.check_memmap(bind)
        if 0 < seen < everything:
            return
    raise HostFailure(
        f"in {TRIES} binds the event was never switched in the middle: there were {seen} of {everything} events in the "
        "last one. Nothing is known of a switch during a bind: run the test again on a machine that is less busy"
    )


def wanted_events(bench: Bench, last: Bind) -> dict[int, int]:
    """Return the events of the slow path when the namespace is bound again, by the value that is set."""
    segments = bench.oracle.segments(bench.namespace, last.truth)
    return references.slow_path(last.truth, segments, referenced=bench.spec.mode == "devdax")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.id, marks=() if kind.id in QUICK else pytest.mark.full) for kind in KINDS]
)
def test_no_event_is_lost(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """FS_DAX pages: set to 1, then to 0. GENERIC ones and heads: to 1. Tails: to 1, then to 0."""
    with run.bench(kernel_name, kind, 0, pmem_size=size_of(kind)) as bench:
        count_events(bench, bench.create_namespace())


@pytest.mark.full
@pytest.mark.parametrize("kind", [NamespaceSpec(), NamespaceSpec("devdax")], ids=lambda kind: kind.id)
def test_switched_during_a_bind(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """Whatever the kernel was at when the event was switched, it ends with a right memmap."""
    with run.bench(kernel_name, kind, 0, pmem_size=4 * GIB) as bench:
        first = bench.create_namespace()
        bench.check_memmap(first)
        toggle_during_binds(bench, first)
