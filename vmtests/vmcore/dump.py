"""A dump in a file: its kernel by drgn, its bytes in bulk, and the check of the memmaps that it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import drgn

from vmtests.elf import build_id
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel import vmlinuxes
from vmtests.memmap.access import Access
from vmtests.memmap.check import check
from vmtests.memmap.known import Known
from vmtests.memmap.physical import Region
from vmtests.memmap.program import load, vmcoreinfo
from vmtests.memmap.result import EXAMPLES, MemmapResult
from vmtests.memmap.session import Session
from vmtests.vmcore import elf
from vmtests.vmcore.about import NAME, TYPE, About
from vmtests.vmcore.elf import Core

#: What a segment has no bytes for reads as zeros, as this file does everywhere.
_ZEROS = Path("/dev/zero")


@dataclass(frozen=True)
class Dump:
    """A vmcore, whoever wrote it, and the debug info of its kernel.

    Args:
        file: an ELF core file.
        core: its front.
        vmlinux: of the very build.
    """

    file: Path
    core: Core
    vmlinux: Path

    @classmethod
    def open(cls, file: Path, vmlinux: Path | None = None) -> Dump:
        """Open a dump.

        Args:
            file: the dump.
            vmlinux: the debug info of its kernel; looked for among the kernels in the cache by default.

        Raises:
            UsageError: there is no such file.
            HostFailure: it is no dump of a Linux kernel, or cut off, or its kernel's debug info is not there.
        """
        for path in (file, *([vmlinux] if vmlinux else [])):
            if not path.is_file():
                raise UsageError(f"there is no file {path}")
        core = elf.read(file)
        info = core.note("VMCOREINFO", 0)
        if info is None:
            raise HostFailure(
                f"{file} has no note VMCOREINFO, so nobody finds the kernel in it: QEMU only writes it for a guest "
                "with -device vmcoreinfo whose kernel has FW_CFG_SYSFS and CRASH_DUMP"
            )
        return cls(file, core, _vmlinux(file, info.decode(errors="replace"), vmlinux))

    @cached_property
    def about(self) -> About:
        """What was told with it.

        Raises:
            HostFailure: vmtests did not write it.
        """
        return About.read(self.core, self.file)

    @cached_property
    def program(self) -> drgn.Program:
        """drgn's view of its kernel."""
        program = drgn.Program()
        try:
            program.set_core_dump(self.file)
        except (OSError, ValueError, drgn.FaultError) as error:
            raise HostFailure(f"drgn cannot open {self.file}: {error}") from error
        load(program, self.vmlinux, vmcoreinfo(program))
        return program

    def regions(self) -> tuple[Region, ...]:
        """Return where physical memory lies in the file."""
        found = []
        for one in self.core.segments:
            if one.stored:
                found.append(Region(one.address, one.stored, self.file, one.offset))
            if one.stored < one.size:
                found.append(Region(one.address + one.stored, one.size - one.stored, _ZEROS, 0))
        return tuple(found)

    def stopped(self) -> AbstractContextManager[None]:
        """Nothing moves in a dump."""
        return nullcontext()

    @cached_property
    def access(self) -> Access:
        """The way to its memmaps."""
        return Access.of(self.program, self, self.about.config)

    def check(self, limit: int = EXAMPLES) -> Iterator[tuple[Known, MemmapResult]]:
        """Look at every struct page of each memmap that it holds.

        Raises:
            HostFailure: vmtests did not write it, there was no memmap in the guest, or memory is missing in the dump.
        """
        if not self.about.memmaps:
            raise HostFailure(f"{self.file} is of a guest in which no namespace was bound: it holds no memmap to check")
        for known in self.about.memmaps:
            try:
                yield known, check(self.access, known.truth, node=known.node, poison=known.poison, limit=limit)
            except drgn.FaultError as error:
                raise HostFailure(f"{self.file} lacks memory that leads to the memmap of {known}: {error}") from error

    def session(self) -> Session:
        """Return it for drgn; one that vmtests did not write has nothing told about its memmaps."""
        about = self.about if self.core.note(NAME, TYPE) is not None else None
        said = f", kernel {about.kernel} {about.release}: {about.reason}" if about else ""
        return Session(f"{self.file}{said}", self.program, about.memmaps if about else (), self.check)


def _vmlinux(file: Path, info: str, given: Path | None) -> Path:
    """Return the debug info of the build that VMCOREINFO names."""
    said = dict(re.findall(r"^(BUILD-ID|OSRELEASE)=(.*)$", info, re.MULTILINE))
    wanted, release = said.get("BUILD-ID"), said.get("OSRELEASE", "?")
    if wanted is None:
        raise HostFailure(f"{file} does not say which build of {release} it is of (BUILD-ID in VMCOREINFO, Linux 5.9)")
    if given is not None:
        if (found := build_id(given)) != wanted:
            raise HostFailure(f"{given} is of another kernel (build id {found}) than {file}: {release}, {wanted}")
        return given
    candidates = vmlinuxes()
    for candidate in candidates:
        if build_id(candidate) == wanted:
            return candidate
    raise HostFailure(
        f"the kernel of {file} ({release}, build id {wanted}) is none of the {len(candidates)} in the cache: "
        "name its vmlinux by --vmlinux"
    )
