"""What a memmap check must refuse: another kernel's debug info, a namespace that is not what the probe saw."""

from dataclasses import replace

import pytest

from vmtests.errors import HostFailure, KernelFailure
from vmtests.memmap import Oracle
from vmtests.pmem import Driver, NamespaceSpec
from vmtests.run.run import Run

GIB = 1 << 30


def test_debug_info_of_another_build(run: Run, patched_name: str) -> None:
    """The build ids differ, however alike the kernels are; nothing is read by the wrong one's offsets."""
    base = run.options.kernel_names()[0]
    other = run.kernel(patched_name)
    with run.guest(base, 0) as guest:
        wrong = replace(guest, kernel=replace(guest.kernel, vmlinux=other.vmlinux))
        with (
            pytest.raises(HostFailure, match=r"is not of the kernel that runs \(build id [0-9a-f]{40}\)"),
            Oracle.attach(wrong),
        ):
            pass
        with Oracle.attach(guest) as oracle:
            assert oracle.access.layout.size % 8 == 0


def test_namespace_that_changed(run: Run) -> None:
    """Unbound, or made anew with another size: what the probe saw is out of date, and no page is judged by it."""
    with run.bench(run.options.kernel_names()[0], NamespaceSpec(), 0, pmem_size=2 * GIB) as bench:
        bind = bench.create_namespace()
        driver = Driver(bench.guest, bench.namespace)
        with driver.unbound(), pytest.raises(HostFailure, match=r"changed between probe and check.* no pgmap"):
            bench.check_memmap(bind)
        bench.probes.collect()
        bench.check_memmap(bind)

        bench.destroy_namespace()
        bench.spec = NamespaceSpec(size_bytes=GIB)
        bench.create_namespace()
        with pytest.raises(
            (HostFailure, KernelFailure), match=r"changed between probe and check|is pfn .* was called for"
        ):
            bench.check_memmap(bind)
