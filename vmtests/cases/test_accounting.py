"""What the kernel counts as memory of memmaps: a bind adds what it takes, and an unbind takes the same away."""

import pytest

from vmtests.errors import KernelFailure
from vmtests.pmem import KINDS, Driver, NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run

GIB = 1 << 30
PAGE_BYTES = 4096


def count_memmap_pages(bench: Bench) -> None:
    """Hold nr_memmap_pages of /proc/vmstat against the pages that struct pages have of their own.

    Tails that are shared count once (section_nr_vmemmap_pages(), mm/sparse-vmemmap.c:664 in 7.3.4); what an altmap
    holds counts as well.
    """
    bind = bench.create_namespace()
    driver = Driver(bench.guest, bench.namespace)
    stored = sum(segment.units * segment.stored for segment in bench.oracle.segments(bench.namespace, bind.truth))
    wanted = (bind.truth.reserve_pages + stored) * bench.oracle.access.layout.size // PAGE_BYTES
    bound = _memmap_pages(bench)
    with driver.unbound():
        unbound = _memmap_pages(bench)
    again = _memmap_pages(bench)
    if (bound - unbound, again - unbound) != (wanted, wanted):
        raise KernelFailure(
            f"the memmap of {bench.namespace.id} takes {wanted} pages, but nr_memmap_pages fell by {bound - unbound} "
            f"when its driver was unbound, and rose by {again - unbound} when it was bound again"
        )
    bench.probes.collect()


def _memmap_pages(bench: Bench) -> int:
    return int(bench.guest.run("sed -n 's/^nr_memmap_pages //p' /proc/vmstat").stdout)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS, ids=[kind.id for kind in KINDS])
def test_memmap_pages(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """Each kind of namespace on each kernel."""
    with run.bench(kernel_name, kind, 0, pmem_size=4 * GIB) as bench:
        count_memmap_pages(bench)
