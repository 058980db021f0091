"""Starting QEMU with everything that is connected to it; what its guest does is not looked at yet."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vmtests import cache
from vmtests.guest import trace
from vmtests.guest.admission import Claim
from vmtests.guest.console import Console
from vmtests.guest.death import Death
from vmtests.guest.log import LIMIT, CappedLog
from vmtests.guest.machine import Machine, Wiring
from vmtests.guest.monitor import Monitor
from vmtests.guest.process import STEP_SECONDS, Process, pasteable
from vmtests.guest.supervised import SupervisedProcess, Supervision
from vmtests.guest.workspace import Workspace
from vmtests.host import facts

if TYPE_CHECKING:
    from vmtests.image import Image
    from vmtests.kernel import Kernel

#: A report of the kernel with its registers, before they are left out.
REPORT_LINES = 70

#: In the workspace of a supervised guest: its supervisor's process id.
PID_FILE = "supervisor.pid"


@dataclass(frozen=True)
class Logs:
    """The files of evidence of one guest, all in one folder; those that grow as the guest likes have a limit."""

    folder: Path
    limit: int = LIMIT

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def stderr(self) -> Path:
        return self.folder / "qemu.stderr"

    @property
    def qmp(self) -> Path:
        return self.folder / "qmp.log"

    @property
    def commands(self) -> Path:
        return self.folder / "commands.log"

    @property
    def argv(self) -> Path:
        return self.folder / "argv.sh"


@dataclass(frozen=True)
class Launched:
    """A QEMU that runs.

    Attributes:
        keys: the socket that leads to the port that init reads the keys from.
        ram: the file that is the guest's memory; see Machine.ram_files().
        drgn, visitors: QMP monitors of their own, for drgn and, of a supervised guest, for who comes later.
        started: when, by time.monotonic().
        lifetime: what ends it. Not a context of its own: one that is kept must not end when Python clears its memory.
    """

    machine: Machine
    workspace: Workspace
    logs: Logs
    process: Process
    console: Console
    monitor: Monitor
    death: Death
    keys: socket.socket
    ram: Path
    drgn: Path
    visitors: Path
    started: float
    lifetime: ExitStack


@dataclass(frozen=True)
class Plan:
    """What a guest is to be.

    Attributes:
        kernel, image, machine: what boots.
        append: more words for the kernel's command line.
        logs: where its evidence goes.
        supervised: it can be kept, and looked into by others.
        outlives: it does not die with us.
        alone: no other guest may run at the same time.
        tell: called with a line when it has to wait, or is not started as it was asked for.
    """

    kernel: Kernel
    image: Image
    machine: Machine
    append: tuple[str, ...]
    logs: Logs
    supervised: bool
    outlives: bool
    alone: bool
    tell: Callable[[str], None]

    @property
    def patience(self) -> float:
        """What deadlines for it are multiplied by."""
        return self.machine.patience(self.kernel.config_values())


def launch(plan: Plan, *, content: Callable[[Path], None] | None = None) -> Launched:
    """Start QEMU; closing its `lifetime` ends it.

    Args:
        plan: what to start.
        content: fills each file of its memory, and QEMU then waits for the state of another one instead of booting.

    Raises:
        HostFailure: a file is not there or damaged, or QEMU cannot be started.
    """
    kernel, image, machine, logs = plan.kernel, plan.image, plan.machine, plan.logs
    kernel.verify()
    image.verify()
    death = Death(evidence=(logs.console, logs.stderr, logs.argv))
    with ExitStack() as stack:
        Workspace.sweep()
        cpus = facts.cpus() if plan.alone else machine.cpus
        workspace = stack.enter_context(Workspace(Claim(cpus, machine.memory_bytes, os.getpid()), plan.tell))
        ram = workspace.files / "ram"
        for file, bytes_of_node in machine.ram_files(ram):
            workspace.sparse(file.name, bytes_of_node)
        drgn, visitors = workspace.socket("drgn"), workspace.socket("qmp")
        # Socket pairs: nothing to connect to, so no race and no name; what is written early waits in them.
        pairs = [stack.enter_context(_Pair()) for _ in range(3)]
        console_pair, monitor_pair, keys_pair = pairs
        wiring = Wiring(
            name=workspace.id,
            kernel=kernel.image.absolute(),
            initrd=image.path.absolute(),
            append=machine.command_line(plan.append),
            ram=ram,
            drgn=drgn,
            console=console_pair.backend,
            monitor=monitor_pair.backend,
            keys=keys_pair.backend,
            visitors=visitors if plan.supervised else None,
            incoming=content is not None,
        )
        logs.argv.write_text(pasteable(machine.argv(wiring.by_hand())))
        logs.argv.chmod(0o700)
        started = time.monotonic()
        argv, inherit = machine.argv(wiring), [pair.theirs.fileno() for pair in pairs]
        if plan.supervised:
            supervision = Supervision(
                console=console_pair.ours.fileno(),
                drain=(monitor_pair.ours.fileno(), keys_pair.ours.fileno()),
                hold=(*workspace.locks, *_holds(kernel.image, image.path)),
                log=logs.console.absolute(),
                limit=logs.limit,
                pid_file=workspace.files / PID_FILE,
                outlives=plan.outlives,
            )
            process: Process = SupervisedProcess(argv, stderr=logs.stderr, inherit=inherit, supervision=supervision)
        else:
            process = Process(argv, stderr=logs.stderr, inherit=inherit)
        stack.enter_context(process)
        for pair in pairs:
            pair.theirs.close()
        if content is not None:
            # While QEMU starts: it does not look at its memory before the state has come.
            for file, _ in machine.ram_files(ram):
                content(file)
        death.examine = process.examine
        console = Console(
            console_pair.ours,
            stack.enter_context(CappedLog(logs.console, logs.limit)),
            death,
            ended=lambda: death.report(process.obituary()),
        )
        death.tail = lambda: trace.readable(console.tail(REPORT_LINES), kernel.vmlinux)
        qmp_log = stack.enter_context(CappedLog(logs.qmp, logs.limit))
        monitor = stack.enter_context(Monitor(monitor_pair.ours, qmp_log, death))
        process.quit = lambda: monitor.execute("quit", seconds=STEP_SECONDS)
        stack.callback(_end, process, console)
        death.interrogate = lambda: _interrogate(monitor, console, death)
        return Launched(
            machine=machine,
            workspace=workspace,
            logs=logs,
            process=process,
            console=console,
            monitor=monitor,
            death=death,
            keys=keys_pair.ours,
            ram=ram,
            drgn=drgn,
            visitors=visitors,
            started=started,
            lifetime=stack.pop_all(),
        )


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


def _holds(*files: Path) -> Iterator[int]:
    """Yield the locks of the cache's entries that a guest needs, for who looks into it later."""
    for file in files:
        if (descriptor := cache.hold(file.parent)) is not None:
            yield descriptor


def _end(process: Process, console: Console) -> None:
    """End QEMU and let the console take its last words."""
    try:
        process.end()
    finally:
        console.join(2)


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
