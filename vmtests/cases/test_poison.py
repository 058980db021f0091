"""Binds over memory that was overwritten: no struct page is right only because of what was there before."""

from dataclasses import replace

import pytest

from vmtests import data, kernel
from vmtests.errors import HostFailure, KernelFailure
from vmtests.kernel import Patch
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run.run import Run

#: One memmap on the device, one in RAM.
QUICK = ("fsdax-dev", "devdax-2m-mem")

#: Memmaps of 1.6 GB for 100 GB, all in RAM; the other kinds need less. All that is free of it gets overwritten.
LARGE = ("fsdax-mem", "devdax-4k-mem")
MEMORY_BYTES = {kind.id: (4 if kind.id in LARGE else 2) << 30 for kind in KINDS}

#: What of the memmap must have lain in overwritten memory: between the poison and the bind, the guest frees some more.
POISONED = 0.95


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.id, marks=() if kind.id in QUICK else pytest.mark.full) for kind in KINDS]
)
def test_first_bind(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """What is overwritten: for map=dev the NVDIMM where the memmap will lie, for map=mem all of the free RAM."""
    with run.bench(kernel_name, kind, 0, memory_bytes=MEMORY_BYTES[kind.id]) as bench:
        result = bench.check_memmap(bench.create_namespace(over_poison=True))
        if result.pages_poisoned < POISONED * result.pages_expected:
            raise HostFailure(
                f"only {result.pages_poisoned} of {result.pages_expected} struct pages of the first {kind.id} lie in "
                "memory that was overwritten: what the others hold proves nothing"
            )


@pytest.mark.full
@pytest.mark.parametrize("kind", [NamespaceSpec(map="dev"), NamespaceSpec(map="mem")], ids=lambda kind: kind.id)
def test_only_poison_shows_a_forgotten_page(run: Run, kind: NamespaceSpec) -> None:
    """A page that rebinds forget keeps the last bind's right content, unless that was overwritten."""
    patch = Patch.read(data.folder("kernels") / "mutants" / "rebind-forgets-a-page.patch")
    run.add(replace(kernel.load("base"), name=patch.path.stem, patches=(patch,)))
    with run.bench(patch.path.stem, kind, 0, pmem_size=4 << 30) as bench:
        bench.check_memmap(bench.create_namespace())
        bench.check_memmap(bench.rebind(2)[-1])

        poisoned = bench.rebind_over_poison(3)
        with pytest.raises(KernelFailure, match=r": 1 wrong struct pages"):
            bench.check_memmap(poisoned)


@pytest.mark.full
@pytest.mark.parametrize(
    "kind", [NamespaceSpec(map="mem"), NamespaceSpec("devdax", "mem", 2 << 20)], ids=lambda kind: kind.id
)
def test_a_kernel_that_poisons_by_itself(run: Run, kind: NamespaceSpec) -> None:
    """With page_poison=1 the kernel overwrites free pages itself, and looks at them: the host leaves them alone."""
    with run.bench("debug-vm", kind, 0, pmem_size=4 << 30, append=["page_poison=1"]) as bench:
        bench.check_memmap(bench.create_namespace(over_poison=True))
        result = bench.check_memmap(bench.rebind_over_poison(1))
        if result.pages_poisoned != result.pages_expected:
            raise HostFailure("page_poison=1 has not switched on the kernel's own poison: the bind was over none")
