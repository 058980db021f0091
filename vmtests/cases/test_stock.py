"""A kernel that was not built here: Debian's own, whose modules init inserts and whose types come from its BTF."""

from pathlib import Path

from vmtests.errors import KernelFailure
from vmtests.pmem import NamespaceSpec
from vmtests.run.run import Run
from vmtests.vmcore import Dump
from vmtests.vmcore.readers import agree, by_drgn, in_bulk, sample

MIB, GIB = 1 << 20, 1 << 30

KINDS = (NamespaceSpec("fsdax", "dev", size_bytes=2 * GIB), NamespaceSpec("devdax", "dev", 2 * MIB))


def test_a_kernel_that_was_not_built_here(run: Run, tmp_path: Path) -> None:
    """Single pages and folios are right after rebinds and over poison, each bit is seen, and a dump holds the same."""
    with run.bench("stock", KINDS[0], 0, pmem_size=4 * GIB) as bench:
        for kind in KINDS:
            bench.spec = kind
            bench.check_memmap(bench.create_namespace())
            bench.check_memmap(bench.rebind(2)[-1])
            poisoned = bench.rebind_over_poison(3)
            bench.check_memmap(poisoned)
            proof = bench.prove_check(poisoned, 50, seed=run.options.run_seed())
            assert proof.passed, str(proof)
        bench.dump(tmp_path / "vmcore")

    dump = Dump.open(tmp_path / "vmcore")
    for known, result in dump.check():
        result.verify(f"{dump.file}, {known}")
        # Members by drgn's own way, through the types that BTF gives it.
        pfns = sample(dump, known, 100, run.options.run_seed())
        found = agree(in_bulk(dump, known, pfns), by_drgn(dump, pfns), "drgn")
        if not found.passed:
            raise KernelFailure(f"drgn and the memmap check read {known} differently: {found.differences[0]}")
    assert [known.namespace for known in dump.about.memmaps] == [kind.id for kind in KINDS]
