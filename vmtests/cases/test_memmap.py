"""Every kind of namespace on each kernel: every struct page is right, and the check is shown to see every bit."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run
from vmtests.timing.rebind import Bind

#: map=mem takes 1.6 GB of it for 100 GB.
MEMORY_BYTES = 4 << 30

#: What the check of a 100 GiB namespace may take on two cores, in seconds and in bytes beside what it finds there.
SECONDS, BYTES = 2.0, 400_000_000

#: How often it is timed until it took no longer: others may be at work here.
TRIES = 5

#: What the proof by 1000 flipped bits may take.
PROOF_SECONDS = 60.0

Lend = Callable[[NamespaceSpec], AbstractContextManager[Bench]]


@pytest.fixture(scope="module")
def lend(run: Run, kernel_name: str) -> Iterator[Lend]:
    """One guest of each kernel serves all kinds in turn."""
    with run.in_turns(kernel_name, memory_bytes=MEMORY_BYTES) as lend:
        yield lend


@pytest.mark.parametrize("kind", KINDS, ids=[kind.id for kind in KINDS])
def test_memmap(run: Run, lend: Lend, kind: NamespaceSpec) -> None:
    """Every page is right after the first bind and after one over poison; then no flipped bit is overlooked."""
    with lend(kind) as bench:
        first = bench.create_namespace()
        bench.check_memmap(first)

        rebind = bench.rebind_over_poison(1)
        bench.check_memmap(rebind)

        flips = 1000 if run.options.tier == "full" else 50
        proof = bench.prove_check(rebind, flips, seed=run.options.run_seed())
        assert proof.passed, str(proof)
        if run.options.tier == "full":
            assert proof.seconds <= PROOF_SECONDS
            see_what_a_check_takes(run, bench, rebind)


def see_what_a_check_takes(run: Run, bench: Bench, bind: Bind) -> None:
    """Hold the seconds and the memory of a whole check against what they may be, and keep both beside the record."""
    for _ in range(TRIES):
        result = bench.oracle.check(bench.namespace, bind.truth)
        if result.seconds <= SECONDS:
            break
    tracemalloc.start()
    try:
        bench.oracle.check(bench.namespace, bind.truth)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ratio = result.seconds / result.read_limit_seconds
    line = f"{result.pages_checked:11,} pages {result.seconds:5.2f} s, {ratio:4.1f} of summing, {peak / 1e6:4.0f} MB"
    run.progress.say(f"  {bench.label}: {line}")
    run.record.add_line("memmap", f"{bench.guest.kernel.name:14} {bench.spec.id:14} {line}")
    assert result.seconds <= SECONDS
    assert peak <= BYTES
