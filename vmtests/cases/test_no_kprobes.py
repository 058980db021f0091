"""A kernel without kprobes: its memmap is checked by what else tells the range, and what nobody saw is said."""

import pytest

from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run import unprobed
from vmtests.run.run import Run

GIB = 1 << 30


def test_the_pgmap_agrees_with_the_probe(run: Run) -> None:
    """On a kernel that can be probed, the range that pgmap_array gives is the one that the function was called with."""
    kernel = run.options.kernel_names()[0]
    with run.bench(kernel, NamespaceSpec("devdax", "mem", size_bytes=2 * GIB), 0, pmem_size=4 * GIB) as bench:
        folios = bench.create_namespace()
        assert bench.oracle.ranges() == (folios.truth,)
        bench.spec = NamespaceSpec(size_bytes=GIB)
        single = bench.create_namespace()
        assert bench.oracle.ranges() == (folios.truth, single.truth)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS, ids=[kind.id for kind in KINDS])
def test_memmap_without_kprobes(run: Run, kind: NamespaceSpec) -> None:
    """Every page is right after the first bind and over poison; the record says what no probe could tell."""
    with run.bench("no-kprobes", kind, 0, pmem_size=8 * GIB) as bench:
        bench.check_memmap(bench.create_namespace())
        rebind = bench.rebind_over_poison(1)
        bench.check_memmap(rebind)
        proof = bench.prove_check(rebind, 50, seed=run.options.run_seed())
        assert proof.passed, str(proof)
        assert bench.probes.not_checked == unprobed.NOT_CHECKED
