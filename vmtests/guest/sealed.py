"""A guest that is left alone: nothing reaches it from its start on, so that it does the same to the instruction.

It has no NIC, no monitor, no port for keys, and its random numbers are the same in every boot. What it is to do stands
on its kernel's command line, what came of it on its console. That is a pipe: through a socket, where each byte takes up
the room of a packet, QEMU has to wait for its reader, and when it did shows in the counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vmtests import host
from vmtests.errors import UsageError
from vmtests.guest import size
from vmtests.guest.console import Console
from vmtests.guest.death import Cause, Death, Witness
from vmtests.guest.log import CappedLog
from vmtests.guest.machine import Machine, option
from vmtests.guest.process import Process, pasteable
from vmtests.guest.workspace import Workspace
from vmtests.host.qemu import BINARY

if TYPE_CHECKING:
    from vmtests.image import Image
    from vmtests.kernel import Kernel

#: What init prints first.
_INIT = r"^vmtests: init\s*$"
#: How long a boot may take on real hardware.
_BOOT_SECONDS = 60.0
#: More than a healthy guest ever prints, and what any user may ask for (/proc/sys/fs/pipe-max-size).
_PIPE_BYTES = size.MIB


@dataclass(frozen=True)
class SealedGuest:
    """A guest that has reached its init. `log` is what its console has said so far, and what it will."""

    console: Console
    log: Path
    argv: tuple[str, ...]
    seconds_to_init: float
    cpu_warnings: tuple[str, ...]
    patience: float
    evidence: tuple[Path, ...]

    def wait_for(self, pattern: str, seconds: float, what: str) -> str:
        """Return the first line of the console that the regular expression is found in.

        Args:
            pattern: a regular expression.
            seconds: the deadline on real hardware.
            what: what is waited for, for the message.

        Raises:
            KernelFailure, HostFailure: the guest died, or the deadline passed.
        """
        return self.console.wait_for(pattern, seconds * self.patience, what=what)


class _Pipe:
    """A pipe that QEMU writes the console to."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()
        with contextlib.suppress(OSError):  # other pipes of this user have taken the room: then it is 64 KiB
            fcntl.fcntl(self.theirs, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def recv(self, count: int) -> bytes:
        return os.read(self._ours, count)

    def sendall(self, data: bytes) -> None:
        raise ValueError(f"nothing can be typed into a sealed guest: {data!r}")

    def start(self) -> None:
        """Let QEMU's end be the only one, so that its end is the console's."""
        os.close(self.theirs)

    def __enter__(self) -> _Pipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._ours)


@contextmanager
def sealed(
    kernel: Kernel,
    image: Image,
    machine: Machine,
    workspace: Workspace,
    *,
    evidence: Path,
    append: Sequence[str] = (),
    devices: Sequence[str] = (),
) -> Iterator[SealedGuest]:
    """Start a sealed guest; the body runs when its init has begun, and leaving it ends the guest.

    Args:
        kernel, image, machine: what to boot; the machine counts instructions.
        workspace: for the guest's RAM.
        evidence: a folder, made if need be, for console.log, qemu.stderr and argv.sh.
        append: more words for the kernel's command line.
        devices: more arguments for QEMU.

    Raises:
        KernelFailure: the kernel panicked or hangs.
        HostFailure: a file is not there or damaged; QEMU cannot be started, or ended by itself.
    """
    if not machine.icount:
        raise UsageError("a sealed guest is there for the clock icount")
    kernel.verify()
    image.verify()
    evidence.mkdir(parents=True, exist_ok=True)
    console_log, stderr, argv_sh = (evidence / name for name in ("console.log", "qemu.stderr", "argv.sh"))
    death = Death(evidence=(console_log, stderr, argv_sh))
    ram = workspace.sparse("ram", machine.memory_bytes)

    def argv(console: str) -> list[str]:
        return _argv(machine, kernel, image, machine.command_line(append), ram, console, devices)

    argv_sh.write_text(pasteable(argv("stdio")))
    argv_sh.chmod(0o700)
    with ExitStack() as stack:
        start = time.monotonic()
        pipe = _Pipe()
        try:
            backend = option("file", {"path": f"/proc/self/fd/{pipe.theirs}"})
            process = stack.enter_context(Process(argv(backend), stderr=stderr, inherit=[pipe.theirs]))
        except BaseException:
            with pipe:
                raise
        finally:
            pipe.start()
        death.examine = process.examine
        log = stack.enter_context(CappedLog(console_log))
        console = Console(pipe, log, death, ended=lambda: death.report(_obituary(process)))
        stack.callback(_end, process, console)
        patience = machine.patience(kernel.config_values())
        console.wait_for(_INIT, _BOOT_SECONDS * patience, what=f"booting kernel {kernel.name}")
        yield SealedGuest(
            console=console,
            log=console_log,
            argv=process.argv,
            seconds_to_init=time.monotonic() - start,
            cpu_warnings=tuple(host.parse_missing_features(stderr.read_text(errors="replace"))),
            patience=patience,
            evidence=death.evidence,
        )
        death.check(f"the guest with kernel {kernel.name} is dead")


def _argv(
    machine: Machine,
    kernel: Kernel,
    image: Image,
    append: str,
    ram: Path,
    console: str,
    devices: Sequence[str],
) -> list[str]:
    memory = {"id": "ram", "size": machine.memory_bytes, "mem-path": ram, "share": True}
    # fmt: off
    return [
        BINARY,
        "-no-user-config",
        "-nodefaults",
        "-display", "none",
        "-machine", "q35,nvdimm=on,memory-backend=ram",
        *machine.accelerator_argv(),
        "-cpu", machine.cpu_model,
        "-smp", str(machine.cpus),
        "-m", f"size={machine.memory_bytes // size.MIB}M,slots={machine.slots},"
              f"maxmem={machine.max_memory_bytes // size.MIB}M",
        "-object", option("memory-backend-file", memory),
        # What RDRAND returns and the bootloader hands on.
        "-seed", "1",
        # A panic resets the machine, which ends QEMU: there is nobody to look at a guest that is stopped.
        "-action", "reboot=shutdown,shutdown=poweroff,panic=none",
        "-kernel", os.fspath(kernel.image.absolute()).replace(",", ",,"),
        "-initrd", os.fspath(image.path.absolute()).replace(",", ",,"),
        "-append", append,
        "-chardev", f"{console},id=console",
        "-serial", "chardev:console",
        *devices,
    ]
    # fmt: on


def _obituary(process: Process) -> Cause:
    """Return the cause of the end; QEMU ends in good order only when the guest has reset itself or powered off."""
    cause = process.obituary()
    if cause.status == 0 and not process.ending:
        return Cause(Witness.STOP_EVENT, "the guest reset itself, or powered itself off", by_kernel=True)
    return cause


def _end(process: Process, console: Console) -> None:
    """End QEMU and let the console take its last words."""
    try:
        process.end()
    finally:
        console.join(2)
