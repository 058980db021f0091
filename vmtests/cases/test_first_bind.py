"""The first bind of a boot, over poison: no struct page is right only because the memory was still zero."""

import pytest

from vmtests.errors import KernelFailure
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run.run import Run

#: One memmap on the device, one in RAM.
QUICK = ("fsdax-dev", "devdax-2m-mem")

#: map=mem takes 1.6 GB of it for 100 GB; all that is free of it gets overwritten.
MEMORY_BYTES = 3 << 30

#: What of the memmap must have lain in overwritten memory: between the poison and the bind, the guest frees some more.
POISONED = 0.95


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.id, marks=() if kind.id in QUICK else pytest.mark.full) for kind in KINDS]
)
def test_first_bind(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """What is overwritten: for map=dev the NVDIMM where the memmap will lie, for map=mem all of the free RAM."""
    with run.bench(kernel_name, kind, 0, memory_bytes=MEMORY_BYTES) as bench:
        result = bench.check_memmap(bench.create_namespace(over_poison=True))
        if result.pages_poisoned < POISONED * result.pages_expected:
            raise KernelFailure(
                f"only {result.pages_poisoned} of {result.pages_expected} struct pages of the first {kind.id} lie in "
                "memory that was overwritten: what the others hold proves nothing"
            )
