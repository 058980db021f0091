"""Binds of a sealed guest: counted where nothing of the host's can reach them.

The probes are armed by the kernel's command line. images/init binds the driver again as often as the command line
says, then prints the trace and the pr_debug() lines. The only clock is the raw time stamp counter; under -icount
shift=0 one tick is one instruction.

The namespace is there from the start, so its first bind happens while the kernel boots, and the boot's other work is
done in between. It is no sample: this rig has no first bind, and indices begin with 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Machine, Workspace
from vmtests.guest.admission import Claim
from vmtests.guest.sealed import SealedGuest, sealed
from vmtests.pmem import Nvdimm, Prepared
from vmtests.timing import trace
from vmtests.timing.probes import FUNCTION, agreed, debug_lines, definitions
from vmtests.timing.rebind import Bind, bind_from

if TYPE_CHECKING:
    from vmtests.image import Image
    from vmtests.kernel import Kernel

#: The parameter of the kernel's command line that init finds in its environment.
REBINDS = "vmtests_rebinds"
#: What init prints before and behind the trace, and when it has printed all.
_TRACE, _LOG, _DONE = (f"vmtests: sealed: {word}" for word in ("trace", "log", "done"))
_FAILED = "vmtests: sealed: failed"
#: For one unbind and bind, on real hardware, and for all that is around them.
_SECONDS = 30.0
_LEAST_SECONDS = 60.0


@dataclass(frozen=True)
class Counted:
    """What a sealed guest did: its rebinds, and the guest as it was."""

    binds: tuple[Bind, ...]
    guest: SealedGuest


def command_line(pgmap_offsets: Mapping[str, int], rebinds: int) -> list[str]:
    """Return the words of the kernel's command line that arm the probes and tell init how often to bind."""
    probes = ";".join(one.replace(" ", ",") for one in definitions(pgmap_offsets))
    return [
        "trace_clock=x86-tsc",
        # Six events a bind, the largest of some 100 bytes.
        f"trace_buf_size={max(1, rebinds // 500)}M",
        f"kprobe_event={probes}",
        f'dyndbg="func {FUNCTION} +p"',
        f"{REBINDS}={rebinds}",
    ]


def count(
    kernel: Kernel,
    image: Image,
    machine: Machine,
    prepared: Prepared,
    *,
    rebinds: int,
    boot: int,
    pgmap_offsets: Mapping[str, int],
    evidence: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> Counted:
    """Boot a sealed guest, let it bind alone, and return what it counted.

    Args:
        kernel, image, machine: what to boot; the machine counts instructions.
        prepared: the namespace.
        rebinds: how often.
        boot: the number of this boot, for the record.
        pgmap_offsets: offset in bytes of each field of struct dev_pagemap, from the kernel's debug info.
        evidence: a folder for the console's log and more.
        tell: called with what the guest has to wait for, when others leave no room for it.

    Raises:
        KernelFailure: the kernel died or hangs, or its samples are not complete.
        HostFailure: QEMU ended, or the kernel cannot be probed while it boots.
    """
    claim = Claim(machine.cpus, machine.memory_bytes, os.getpid())
    with Workspace(claim, tell) as workspace, prepared.write(workspace.files / "nvdimm0") as backing:
        nvdimm = Nvdimm("nvdimm0", backing.path, prepared.nvdimm_bytes, prepared.label_bytes)
        append = command_line(pgmap_offsets, rebinds)
        with sealed(
            kernel, image, machine, workspace, evidence=evidence, append=append, devices=nvdimm.argv()
        ) as guest:
            what = f"kernel {kernel.name} binding {prepared.id} {rebinds} times by itself"
            last = guest.wait_for(rf"^({_DONE}|{_FAILED})", _LEAST_SECONDS + _SECONDS * (rebinds + 1), what)
            if last.startswith(_FAILED):
                raise KernelFailure(f"{what}: {last}", output=guest.console.tail(), evidence=guest.evidence)
            binds = _binds(guest.log.read_text(errors="replace"), kernel.name, prepared.id, boot, rebinds)
    return Counted(binds, guest)


def _binds(console: str, kernel: str, namespace: str, boot: int, rebinds: int) -> tuple[Bind, ...]:
    """Return the rebinds that a console tells of."""
    _, _, rest = console.replace("\r\n", "\n").partition(f"{_TRACE}\n")
    shown, _, rest = rest.partition(f"{_LOG}\n")
    log, _, _ = rest.partition(f"{_DONE}\n")
    events = list(trace.events(shown))
    calls = trace.calls(events)
    if not calls:
        raise HostFailure(
            f"kernel {kernel} has not let itself be probed while it boots: the parameter kprobe_event= needs "
            f"CONFIG_KPROBE_EVENTS and {FUNCTION}() as a symbol; use --rig ssh"
        )
    seen = agreed(calls, calls, debug_lines(log))
    if len(seen) != rebinds + 1:
        raise KernelFailure(
            f"a first bind and {rebinds} rebinds of {namespace} initialised the memmap {len(seen)} times: "
            "samples are missing"
        )
    marks = trace.marks(events)
    return tuple(
        bind_from(one, marks, kernel=kernel, boot=boot, namespace=namespace, index=index, clock="icount", rig="sealed")
        for index, one in enumerate(seen)
        if index
    )
