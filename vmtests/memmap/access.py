"""A kernel's memmap seen from the host: drgn for the kernel's own tables, files that hold its memory for the bytes.

The kernel is that of a running guest, or of a dump of one.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import drgn

from vmtests.errors import HostFailure
from vmtests.guest.monitor import require_free
from vmtests.memmap import debuginfo, pgmap
from vmtests.memmap.expected import Facts
from vmtests.memmap.layout import PAGE_SHIFT, PAGE_SIZE, PageLayout
from vmtests.memmap.pagetable import Window, walk
from vmtests.memmap.physical import Monitor, PhysicalMemory, Region, regions
from vmtests.memmap.program import load, vmcoreinfo
from vmtests.memmap.sections import Sections
from vmtests.memmap.truth import RangeTruth

if TYPE_CHECKING:
    from vmtests.kernel import Kernel


class Source(Protocol):
    """What the kernel's memory is read from."""

    def regions(self) -> tuple[Region, ...]:
        """Return where physical memory lies in files, in order of address."""

    def stopped(self) -> AbstractContextManager[None]:
        """The CPUs stand still inside."""


@dataclass(frozen=True)
class Live:
    """A running guest, by QEMU's monitor: the one that drgn does not hold."""

    monitor: Monitor

    def regions(self) -> tuple[Region, ...]:
        """Return where guest physical memory lies now; a DIMM plugged later is not in it."""
        return regions(self.monitor)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The guest's CPUs stand still inside."""
        self.monitor.execute("stop")
        try:
            yield
        finally:
            self.monitor.execute("cont")


@dataclass
class Access:
    """drgn attached to a kernel, and the way to the files that hold its memory.

    Args:
        program: drgn's view of the kernel.
        layout: of its struct page.
        source: what its memory is read from.
        vmemmap: address of the struct page of pfn 0.
    """

    program: drgn.Program
    layout: PageLayout
    source: Source
    vmemmap: int
    _levels: int
    _section_shift: int

    @classmethod
    def of(cls, program: drgn.Program, source: Source, config: Mapping[str, str]) -> Access:
        """Return the access to the kernel that `program` has as its target, debug info loaded.

        Args:
            program: attached.
            source: what the memory of the same kernel is read from.
            config: the kernel's .config, as `debuginfo.derive` takes it.
        """
        info = vmcoreinfo(program)
        return cls(
            program=program,
            layout=debuginfo.derive(program, config, info["OSRELEASE"]),
            source=source,
            vmemmap=program["vmemmap_base"].value_(),
            _levels=5 if int(info["NUMBER(pgtable_l5_enabled)"]) else 4,
            _section_shift=int(info["NUMBER(SECTION_SIZE_BITS)"]) - PAGE_SHIFT,
        )

    def memory(self, *, writable: bool = False) -> PhysicalMemory:
        """Return the kernel's memory, to be entered."""
        return PhysicalMemory(self.source.regions(), writable=writable)

    def stopped(self) -> AbstractContextManager[None]:
        """The CPUs stand still inside."""
        return self.source.stopped()

    def window(self, memory: PhysicalMemory, first_pfn: int, end_pfn: int) -> Window:
        """Walk the kernel's page tables for the struct pages from `first_pfn` to `end_pfn`."""
        top = self.program.read(self.program["init_mm"].pgd.value_(), PAGE_SIZE)
        size = self.layout.size
        return walk(
            lambda address: memory.read(address, PAGE_SIZE),
            top,
            self._levels,
            self.vmemmap + first_pfn * size,
            self.vmemmap + end_pfn * size,
        )

    @property
    def section_bytes(self) -> int:
        """Bytes of memory in a section."""
        return PAGE_SIZE << self._section_shift

    def sections(self, first_pfn: int, end_pfn: int) -> Sections:
        """Return the memory sections that the range touches."""
        return Sections.read(self.program, self.layout.pageblocks, self._section_shift, first_pfn, end_pfn)

    def facts(self, sections: Sections, node: int) -> Facts:
        """Return what the expected contents depend on in this guest."""
        return Facts(
            node=node,
            vmemmap=self.vmemmap,
            section_pages=1 << self._section_shift,
            early_sections=sections.early,
            mobility_disabled=bool(self.program["page_group_by_mobility_disabled"].value_()),
        )

    def pgmap_of(self, pfn: int) -> RangeTruth | None:
        """Return the range that a page belongs to now, as the kernel's table of pgmaps has it."""
        return pgmap.find(self.program, pfn)

    def confirm(self, truth: RangeTruth) -> None:
        """See that the kernel has this pgmap for this range: the driver was not unbound, or bound to another, since.

        Raises:
            HostFailure: there is another one now, or none, so that the truth is out of date.
        """
        now = self.pgmap_of(truth.start_pfn)
        if now != truth:
            raise HostFailure(
                f"the namespace changed between probe and check: the probe saw {truth}, but pfn {truth.start_pfn:#x} "
                f"now is of {now or 'no pgmap'}. Nothing may bind, unbind or destroy a namespace in between"
            )


class Attachable(Protocol):
    """What is needed of a guest: one of ours, or one that was left running."""

    @property
    def kernel(self) -> Kernel: ...

    @property
    def drgn_socket(self) -> Path: ...

    @property
    def monitor(self) -> Monitor: ...


@contextmanager
def attach(guest: Attachable) -> Iterator[Access]:
    """Attach drgn to the guest's second monitor; the guest runs on undisturbed.

    Raises:
        HostFailure: the kernel's debug info is missing, or of another build than the kernel that runs.
    """
    access = None
    with attached(guest) as program:
        try:
            access = Access.of(program, Live(guest.monitor), guest.kernel.config_values())
            del program
            yield access
        finally:
            if access is not None:
                access.program = drgn.Program()


@contextmanager
def attached(guest: Attachable) -> Iterator[drgn.Program]:
    """Yield drgn's view of the guest, which may run or be dead; keep no reference to it.

    Raises:
        HostFailure: the kernel's debug info is missing, or of another build than the kernel that runs; or somebody else
            looks into the guest.
    """
    kernel = guest.kernel
    if kernel.vmlinux is None:
        raise HostFailure(f"kernel {kernel.name} has no vmlinux with debug info: its memory cannot be looked into")
    require_free(guest.drgn_socket)  # drgn would wait for ever
    program = drgn.Program()
    try:
        try:
            program.set_qemu_qmp(str(guest.drgn_socket))
        except (OSError, ValueError, drgn.FaultError) as error:
            raise HostFailure(f"drgn cannot attach to {guest.drgn_socket}: {error}") from error
        load(program, kernel.vmlinux, vmcoreinfo(program))
        yield program
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # whoever keeps the error would keep the program
        raise
    finally:
        # The monitor serves one client, and drgn leaves it only with the last reference to its program.
        del program
        gc.collect()
