"""Kernels as drgn sees them: a program with the debug info of a kernel, be it DWARF or, where there is none, BTF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import drgn

from vmtests.elf import build_id
from vmtests.errors import HostFailure
from vmtests.kernel import btf
from vmtests.kernel.vmlinux import has_dwarf
from vmtests.memmap.btf import add_types, add_variables


def open_vmlinux(vmlinux: Path) -> drgn.Program:
    """Return a program without a target, only with the types of `vmlinux`."""
    if not has_dwarf(vmlinux):
        program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        add_types(program, btf.records(vmlinux))
        return program
    program = drgn.Program()
    program.extra_module("vmlinux", create=True).try_file(vmlinux, force=True)
    return program


def vmcoreinfo(program: drgn.Program) -> dict[str, str]:
    """Return what the kernel says of itself for dumps (Documentation/admin-guide/kdump/vmcoreinfo.rst).

    Raises:
        HostFailure: it says nothing, or not what is needed here.
    """
    try:
        text = program["VMCOREINFO"].string_().decode()
    except (KeyError, drgn.FaultError) as error:
        raise HostFailure(
            "the guest gives no vmcoreinfo: it needs -device vmcoreinfo, CONFIG_KEXEC, CONFIG_CRASH_DUMP and "
            f"CONFIG_FW_CFG_SYSFS ({error})"
        ) from error
    info = dict(re.findall(r"^([^=\n]+)=(.*)$", text, flags=re.MULTILINE))
    for key in ("OSRELEASE", "NUMBER(pgtable_l5_enabled)", "NUMBER(SECTION_SIZE_BITS)"):
        if key not in info:
            raise HostFailure(f"the guest's vmcoreinfo has no {key}")
    return info


def load(program: drgn.Program, vmlinux: Path, info: Mapping[str, str]) -> None:
    """Give the attached program the debug info of `vmlinux`.

    Args:
        program: attached to a kernel.
        vmlinux: with DWARF or BTF.
        info: the kernel's `vmcoreinfo`.

    Raises:
        HostFailure: it is of another build than the kernel, or has no debug info.
    """
    running, given = info.get("BUILD-ID", "none"), build_id(vmlinux)
    if running != given:
        raise HostFailure(
            f"{vmlinux} (build id {given}) is not of the kernel that runs (build id {running}): it needs that of its "
            "build",
            evidence=[vmlinux],
        )
    if has_dwarf(vmlinux):
        try:
            program.load_debug_info([vmlinux])
        except (drgn.MissingDebugInfoError, OSError) as error:
            raise HostFailure(f"drgn cannot read the debug info of {vmlinux}: {error}") from error
    else:
        add_types(program, btf.records(vmlinux))
        add_variables(program)
