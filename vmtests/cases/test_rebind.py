"""The published procedure on each kernel: bind a 100 GB namespace, rebind its driver, look at every struct page."""

from vmtests.run.bench import Bench
from vmtests.run.sealed import SealedBench


def test_rebind(bench: Bench) -> None:
    """Every page is right after the first bind, after the last rebind, and after a rebind over a poisoned memmap."""
    first = bench.create_namespace()
    bench.check_memmap(first)

    rebinds = bench.rebind(bench.rebinds)
    bench.check_memmap(rebinds[-1])

    poisoned = bench.rebind_over_poison(bench.rebinds + 1)
    bench.check_memmap(poisoned)


def test_sealed_rebind(sealed: SealedBench) -> None:
    """The guest binds alone, and nothing of the host's reaches it: its counts are exact to the digit (--rig sealed)."""
    sealed.rebind(sealed.rebinds)
