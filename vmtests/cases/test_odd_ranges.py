"""Namespaces in places where the kernel's own arithmetic is in doubt."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from vmtests.errors import HostFailure, KernelFailure
from vmtests.memmap import RangeTruth
from vmtests.pmem import NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run
from vmtests.timing import dmesg

MIB, GIB = 1 << 20, 1 << 30
FOLIO_PAGES = GIB >> 12

#: What map_file writes at the beginning.
FIRST_WORD = (0x766D_7465_7374_735A).to_bytes(8, "little")

#: How far behind a multiple of 1 GiB the second namespace begins, and whether the kernel is known to be wrong there.
OFFSETS = {
    "aligned": (0, False),
    "at-a-section": (128 * MIB, True),
    "in-mid-section": (144 * MIB, True),
}


@pytest.mark.full
@pytest.mark.parametrize(("offset", "doubtful"), OFFSETS.values(), ids=OFFSETS)
def test_second_namespace_of_1g_folios(
    run: Run, kernel_name: str, offset: int, doubtful: bool, map_file: bytes
) -> None:
    """Each 1 GiB of data is one folio, wherever the namespace begins, and what a process maps and writes lands in it.

    With map=mem, memmap_init_zone_device() counts folios from the namespace's first byte (mm/mm_init.c:1100 in 7.3.4),
    but only the data behind the info block are aligned to 1 GiB (drivers/nvdimm/pfn_devs.c:586). A mapping then is of
    the head's address cut down to 1 GiB (pfn_pud(), arch/x86/include/asm/pgtable.h:753), so of the namespace before.
    A kernel that is wrong there is no failure of this run, but an expected one, with the evidence in the record.
    """
    with run.bench(kernel_name, NamespaceSpec(size_bytes=2 * GIB + offset), 0, pmem_size=8 * GIB) as bench:
        bench.create_namespace()
        bench.spec = NamespaceSpec("devdax", "mem", GIB, 4 * GIB)
        bind = bench.create_namespace()
        steps: tuple[Callable[[], object], ...] = (
            partial(see_folios, bench, bind.truth),
            partial(bench.check_memmap, bind),
            partial(map_and_write, bench, map_file),
        )
        failures = [failure for step in steps if (failure := failure_of(step)) is not None]
        if failures and not doubtful:
            raise failures[0]
        if failures:
            path = run.record.folder / f"{kernel_name}-second-namespace-{offset // MIB}M.txt"
            said = [*map(str, failures), *dmesg.warnings(bench.guest.dmesg())]
            path.write_text("\n\n".join(said) + "\n")
            run.record.add_evidence("kernel-bug", path)
            pytest.xfail(f"a bug of the kernel: {failures[0].message}; see {path}")


#: Where q35 has device memory when all of the RAM is below 4 GiB (pc_get_device_memory_range() in QEMU's hw/i386/pc.c).
DEVICE_MEMORY = 4 * GIB

#: Half a section.
BOOT_DIMM = 64 * MIB


@pytest.mark.full
@pytest.mark.parametrize("beside", [False, True], ids=["as-plugged", "beside-boot-memory"])
def test_1g_folios_beside_boot_memory(run: Run, kernel_name: str, beside: bool) -> None:
    """A 1 GiB folio's struct pages lie in frames of their own, when its first section holds boot memory too.

    The memmap of such a section is there since boot, mapped by entries of 2 MiB. The next section shares its tails
    with the one before by reading that one's last PTE (compound_section_tail_page(), mm/sparse-vmemmap.c:477 in
    7.3.4), and there is no PTE. An NVDIMM alone never gets there, as q35 puts it at a multiple of 1 GiB behind all RAM.
    """
    said = [f"memmap={BOOT_DIMM}@{DEVICE_MEMORY}"] if beside else []
    with run.bench(
        kernel_name,
        NamespaceSpec("devdax", "mem", GIB),
        0,
        pmem_size=4 * GIB,
        append=said,
        dimm_bytes=BOOT_DIMM if beside else 0,
    ) as bench:
        if bench.region.start != DEVICE_MEMORY + (BOOT_DIMM if beside else 0):
            raise HostFailure(f"QEMU has put the NVDIMM at {bench.region.start:#x}: the test is for another machine")
        truth = bench.create_namespace().truth
        access = bench.oracle.access
        early = access.sections(truth.start_pfn, truth.end_pfn).early
        if bool(early) != beside:
            raise HostFailure(f"of the sections of pfn {truth.start_pfn:#x} on, {sorted(early)} exist since boot")
        failure = failure_of(partial(see_frames, bench, truth))
        if failure and not beside:
            raise failure
        if failure:
            path = run.record.folder / f"{kernel_name}-beside-boot-memory.txt"
            path.write_text("\n\n".join([str(failure), *dmesg.warnings(bench.guest.dmesg())]) + "\n")
            run.record.add_evidence("kernel-bug", path)
            pytest.xfail(f"a bug of the kernel: {failure.message}; see {path}")


@pytest.mark.full
@pytest.mark.parametrize(
    "kind", [NamespaceSpec("fsdax", "mem"), NamespaceSpec("devdax", "mem", 2 * MIB)], ids=lambda kind: kind.id
)
def test_beside_boot_memory(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """Smaller folios and single pages: in the section of boot memory its memmap is used, with a frame for each page."""
    append = [f"memmap={BOOT_DIMM}@{DEVICE_MEMORY}"]
    with run.bench(kernel_name, kind, 0, pmem_size=2 * GIB, append=append, dimm_bytes=BOOT_DIMM) as bench:
        bind = bench.create_namespace()
        bench.check_memmap(bind)
        bench.check_memmap(bench.rebind_over_poison(1))
        first = bind.truth.start_pfn
        if not bench.oracle.access.sections(first, first + 1).early:
            raise HostFailure(f"the section of pfn {first:#x} does not exist since boot: this is another machine")


def see_frames(bench: Bench, truth: RangeTruth) -> None:
    """See that each head lies in a frame of its own, and that no frame of the memmap is one that nobody allocated."""
    access = bench.oracle.access
    with access.memory() as memory:
        frames = access.window(memory, truth.start_pfn, truth.end_pfn).frames
    per_folio = FOLIO_PAGES * access.layout.size >> 12
    heads = frames[::per_folio].tolist()
    if len(set(heads)) < len(heads) or 0 in frames:
        places = ", ".join(
            f"pfn {truth.start_pfn + number * FOLIO_PAGES:#x} in frame {frame:#x}" for number, frame in enumerate(heads)
        )
        raise KernelFailure(
            f"the heads of {bench.namespace.name} share frames or lie in page 0: {places}; of the {len(frames)} pages "
            f"of its memmap {int((frames == 0).sum())} are page 0"
        )


def failure_of(step: Callable[[], object]) -> KernelFailure | None:
    """Return the kernel's failure in a step, if there was one."""
    try:
        step()
    except KernelFailure as failure:
        return failure
    return None


def see_folios(bench: Bench, truth: RangeTruth) -> None:
    """See that each 1 GiB of data is one folio."""
    data = bench.namespace.data_start >> 12
    found = {
        pfn: sorted({bench.oracle.head(page) for page in (pfn, pfn + FOLIO_PAGES - 1)})
        for pfn in range(data, truth.end_pfn, FOLIO_PAGES)
    }
    wrong = [
        f"the 1 GiB of data from pfn {pfn:#x} on begins and ends in the folios at {' and '.join(map(hex, heads))}"
        for pfn, heads in found.items()
        if heads != [pfn]
    ]
    if wrong:
        raise KernelFailure(
            f"{len(wrong)} of {len(found)} GiB of {bench.namespace.name} (pfn {truth.start_pfn:#x} to "
            f"{truth.end_pfn:#x}, data from {data:#x}) are no folios of their own",
            output="\n".join(wrong),
        )


def map_and_write(bench: Bench, map_file: bytes) -> None:
    """Let a process write to the first GiB of the device, and look for it where its data begin."""
    namespace, region = bench.namespace, bench.region
    bench.guest.write("/tmp/map_file", map_file)
    bench.guest.run(f"chmod 700 /tmp/map_file && /tmp/map_file write /dev/{namespace.node} {GIB} {2 * MIB}")
    found = pages_that_begin_with(FIRST_WORD, region.nvdimm.backing)
    if found != [namespace.data_start - region.start]:
        raise KernelFailure(
            f"what a process wrote to /dev/{namespace.node} is at {[f'{region.start + at:#x}' for at in found]}, "
            f"where the device's data begin at {namespace.data_start:#x}, its namespace at {namespace.start:#x}"
        )


def pages_that_begin_with(word: bytes, file: Path) -> list[int]:
    """Return where in a sparse file there are pages that begin with these bytes."""
    found, at = [], 0
    with file.open("rb") as data:
        end = file.stat().st_size
        while (at := _next_data(data.fileno(), at, end)) < end:
            data.seek(at)
            if data.read(len(word)) == word:
                found.append(at)
            at += 4096
    return found


def _next_data(descriptor: int, at: int, end: int) -> int:
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError:  # nothing but a hole up to the end
        return end
