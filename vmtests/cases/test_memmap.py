"""Every kind of namespace on each kernel: every struct page is right, and the check is shown to see every bit."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run

#: map=mem takes 1.6 GB of it for 100 GB.
MEMORY_BYTES = 4 << 30

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
