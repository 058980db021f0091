"""Booting a guest: from a kernel, an image and a machine to the first command over SSH."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vmtests import host
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import trace
from vmtests.guest.console import Console
from vmtests.guest.death import Death
from vmtests.guest.guest import Guest
from vmtests.guest.keys import Keys
from vmtests.guest.log import CappedLog
from vmtests.guest.machine import Machine, Wiring
from vmtests.guest.monitor import Monitor
from vmtests.guest.process import STEP_SECONDS, Process, pasteable
from vmtests.guest.shell import Shell
from vmtests.guest.workspace import Workspace

if TYPE_CHECKING:
    from vmtests.image import Image
    from vmtests.kernel import Kernel

#: What images/init prints once the SSH server listens; the kernel may get a line in before the end of this one.
READY = r"vmtests: ready\s*(?:$|\[)"

#: How long a boot may take, and how long its console may say nothing, on real hardware.
BOOT_SECONDS = 60.0
SILENCE_SECONDS = 10.0

#: A report of the kernel with its registers, before they are left out.
REPORT_LINES = 70

_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")


@contextmanager
def boot(
    kernel: Kernel,
    image: Image,
    machine: Machine,
    *,
    evidence: Path,
    deadline: float | None = None,
    append: Sequence[str] = (),
) -> Iterator[Guest]:
    """Boot a guest; the body runs when its first command has, and leaving it ends the guest.

    Args:
        kernel, image, machine: what to boot.
        evidence: a folder, made if need be, for console.log, qemu.stderr, qmp.log, commands.log and argv.sh.
        deadline: seconds that the boot may take on real hardware; a minute by default.
        append: more words for the kernel's command line.

    Raises:
        KernelFailure: the kernel panicked, hangs, or did so later and the body did not notice.
        HostFailure: QEMU cannot be started, or ended by itself.
    """
    for path, what in ((kernel.image, f"the image of kernel {kernel.name}"), (image.path, "the guest's image")):
        if not path.is_file():
            raise HostFailure(f"{what} is not there: {path}")
    evidence.mkdir(parents=True, exist_ok=True)
    logs = [evidence / name for name in ("console.log", "qemu.stderr", "qmp.log", "commands.log", "argv.sh")]
    console_log, stderr, qmp_log, commands_log, argv_sh = logs
    death = Death(evidence=(console_log, stderr, argv_sh))
    patience = machine.patience(kernel.config_values())
    with ExitStack() as stack:
        Workspace.sweep()
        workspace = stack.enter_context(Workspace())
        ram = workspace.files / "ram"
        for path, bytes_of_node in machine.ram_files(ram):
            workspace.sparse(path.name, bytes_of_node)
        drgn = workspace.socket("drgn")
        keys = Keys()
        # Socket pairs: nothing to connect to, so no race and no name; what is written early waits in them.
        pairs = [stack.enter_context(_Pair()) for _ in range(3)]
        console_pair, monitor_pair, keys_pair = pairs
        wiring = Wiring(
            name=workspace.id,
            kernel=kernel.image.absolute(),
            initrd=image.path.absolute(),
            append=machine.command_line(append),
            ram=ram,
            drgn=drgn,
            console=console_pair.backend,
            monitor=monitor_pair.backend,
            keys=keys_pair.backend,
        )
        argv_sh.write_text(pasteable(machine.argv(wiring.by_hand())))
        argv_sh.chmod(0o700)
        start = time.monotonic()
        inherit = [pair.theirs.fileno() for pair in pairs]
        process = stack.enter_context(Process(machine.argv(wiring), stderr=stderr, inherit=inherit))
        for pair in pairs:
            pair.theirs.close()
        death.examine = process.examine
        console = Console(
            console_pair.ours,
            stack.enter_context(CappedLog(console_log)),
            death,
            ended=lambda: death.report(process.obituary()),
        )
        death.tail = lambda: trace.readable(console.tail(REPORT_LINES), kernel.vmlinux)
        monitor = stack.enter_context(Monitor(monitor_pair.ours, stack.enter_context(CappedLog(qmp_log)), death))
        process.quit = lambda: monitor.execute("quit", seconds=STEP_SECONDS)
        stack.callback(_end, process, console)
        death.interrogate = lambda: _interrogate(monitor, console, death)
        with contextlib.suppress(OSError):  # QEMU has died, as the next wait will notice
            keys_pair.ours.sendall(keys.message())
        port = _port(monitor)
        console.wait_for(
            READY,
            (deadline or BOOT_SECONDS) * patience,
            silence=SILENCE_SECONDS * patience,
            what=f"booting kernel {kernel.name}",
        )
        shell = Shell(port, keys, stack.enter_context(CappedLog(commands_log)), death, patience)
        stack.callback(shell.close)
        release = shell.run(["uname", "-r"], seconds=10).stdout.strip()
        took = time.monotonic() - start
        if release != kernel.release:
            raise HostFailure(f"kernel {kernel.name} should be {kernel.release}, but the guest runs {release}")
        guest = Guest(
            kernel=kernel,
            image=image,
            machine=machine,
            workspace=workspace,
            evidence=evidence,
            process=process,
            console=console,
            monitor=monitor,
            shell=shell,
            death=death,
            ram=ram,
            drgn_socket=drgn,
            seconds_to_first_command=took,
            cpu_warnings=tuple(host.parse_missing_features(stderr.read_text(errors="replace"))),
            patience=patience,
        )
        try:
            yield guest
        except KernelFailure:
            raise
        except Exception as error:
            # Whatever else went wrong in the body, the kernel's death explains it.
            if death.cause is not None and death.cause.by_kernel:
                raise death.failure("the guest died under the test") from error
            raise
        if not process.ending:
            if process.wait(0) is not None:
                death.settle()  # the witness is on its way
            guest.check_alive()


class _Pair:
    """Two connected sockets: one for us, one for QEMU to inherit."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    @property
    def backend(self) -> str:
        """QEMU's name for its end."""
        return f"socket,fd={self.theirs.fileno()}"

    def __enter__(self) -> _Pair:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.ours.close()
        self.theirs.close()


def _end(process: Process, console: Console) -> None:
    """End QEMU and let the console take its last words."""
    try:
        process.end()
    finally:
        console.join(2)


def _port(monitor: Monitor) -> int:
    """Return the port on 127.0.0.1 that leads to the guest's port 22."""
    shown = monitor.human("info usernet")
    found = _FORWARD.search(shown)
    if found is None:
        raise HostFailure(f"QEMU's user network shows no forwarded port: {shown!r}")
    return int(found[1])


def _interrogate(monitor: Monitor, console: Console, death: Death) -> str:
    """Let a guest that hangs print what it is doing, and return where its CPUs are; it is dead afterwards."""
    registers = monitor.human("info registers -a", seconds=5)
    # BREAK and a letter is SysRq on a serial console: the blocked tasks. Interrupts off, and nobody hears it. Nothing
    # tells when the guest has taken the BREAK, and the letter must come after that.
    monitor.execute("chardev-send-break", seconds=5, id="console")
    time.sleep(0.1)
    console.send(b"w")
    death.settle()
    # An NMI is heard always (unknown_nmi_panic): one CPU's backtrace, and a guest that is stopped for a dump.
    monitor.execute("inject-nmi", seconds=5)
    return "its CPUs were at RIP " + ", ".join(re.findall(r"RIP=([0-9a-f]+)", registers))
