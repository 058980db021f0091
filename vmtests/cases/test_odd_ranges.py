"""Namespaces in places where the kernel's own arithmetic is in doubt."""

import pytest

from vmtests.errors import KernelFailure
from vmtests.memmap import RangeTruth
from vmtests.pmem import NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run

MIB, GIB = 1 << 20, 1 << 30
FOLIO_PAGES = GIB >> 12

#: How far behind a multiple of 1 GiB the second namespace begins.
OFFSETS = {"aligned": 0, "at-a-section": 128 * MIB, "in-mid-section": 144 * MIB}


@pytest.mark.full
@pytest.mark.parametrize("offset", OFFSETS.values(), ids=OFFSETS)
def test_second_namespace_of_1g_folios(run: Run, kernel_name: str, offset: int, map_file: bytes) -> None:
    """Each 1 GiB of data is one folio, wherever the namespace begins; a process can map and write it.

    With map=mem, memmap_init_zone_device() counts folios from the namespace's first byte (mm/mm_init.c:1100 in 7.3.4),
    but only the data behind the info block are aligned to 1 GiB (drivers/nvdimm/pfn_devs.c:586).
    """
    first = NamespaceSpec(size_bytes=2 * GIB + offset)
    with run.bench(kernel_name, first, 0, pmem_size=8 * GIB) as bench:
        bench.create_namespace()
        bench.spec = NamespaceSpec("devdax", "mem", GIB, 4 * GIB)
        bind = bench.create_namespace()
        wrong = misplaced_folios(bench, bind.truth)
        try:
            bench.check_memmap(bind)
            map_first_page(bench, map_file)
        except KernelFailure as failure:
            if not wrong:
                raise
            wrong.append(str(failure))
        if wrong:
            path = run.record.folder / f"{kernel_name}-second-namespace-at-{offset // MIB}M.txt"
            path.write_text("\n".join(wrong) + "\n")
            run.record.add_evidence("kernel-bug", path)
            pytest.xfail(f"a bug of the kernel: {wrong[0]}; more in {path.name}")


def misplaced_folios(bench: Bench, truth: RangeTruth) -> list[str]:
    """Return a line for each 1 GiB of data that is not one folio."""
    data = bench.namespace.data_start >> 12
    return [
        f"the 1 GiB of data at pfn {pfn:#x} lies in the folios at pfn {' and '.join(f'{head:#x}' for head in heads)}"
        for pfn in range(data, truth.end_pfn, FOLIO_PAGES)
        if (heads := sorted({bench.oracle.head(page) for page in (pfn, pfn + FOLIO_PAGES - 1)})) != [pfn]
    ]


def map_first_page(bench: Bench, map_file: bytes) -> None:
    """Let a process write to the first GiB of the device."""
    bench.guest.write("/tmp/map_file", map_file)
    bench.guest.run(f"chmod 700 /tmp/map_file && /tmp/map_file write /dev/{bench.namespace.node} {GIB} {2 * MIB}")
