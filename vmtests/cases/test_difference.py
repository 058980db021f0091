"""Base against each other kernel: the same binds must leave the same memmap, byte for byte."""

import pytest

from vmtests.memmap.difference import Digest, compare
from vmtests.memmap.layout import PageLayout
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.record import DifferenceEntry
from vmtests.run.run import Run

#: Single pages, and folios whose every struct page has memory of its own.
QUICK = ("fsdax-dev", "devdax-2m-dev")

#: map=mem takes 1.6 GB of it for 100 GB.
MEMORY_BYTES = 4 << 30


def memmap_of(run: Run, kernel: str, kind: NamespaceSpec) -> tuple[Digest, PageLayout]:
    """Boot the kernel, bind the namespace twice, the second time over poison, and return what that left."""
    with run.bench(kernel, kind, 0, memory_bytes=MEMORY_BYTES) as bench:
        bench.create_namespace()
        rebind = bench.rebind_over_poison(1)
        return bench.oracle.digest(bench.namespace, rebind.truth), bench.oracle.access.layout


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=kind.id, marks=() if kind.id in QUICK else pytest.mark.full) for kind in KINDS],
)
def test_difference(run: Run, patched_name: str, kind: NamespaceSpec) -> None:
    """Only the addresses differ, of the pgmap and of the struct pages, and they are replaced by what they mean."""
    base_name = run.options.kernel_names()[0]
    base, layout = memmap_of(run, base_name, kind)
    patched, other_layout = memmap_of(run, patched_name, kind)
    if layout != other_layout:
        pytest.skip(f"{base_name} and {patched_name} lay out struct page differently: their bytes cannot be compared")
    difference = compare(base, patched, layout)
    run.record.add(
        DifferenceEntry(
            base=base_name,
            patched=patched_name,
            namespace=kind.id,
            pages_compared=difference.pages_compared,
            mismatches=difference.mismatches,
        )
    )
    difference.verify(f"{base_name} and {patched_name}, {kind.id}")
