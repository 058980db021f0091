"""A running guest: what tests do with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vmtests.errors import KernelFailure
from vmtests.guest.console import Console
from vmtests.guest.death import Death
from vmtests.guest.machine import Machine
from vmtests.guest.monitor import Monitor
from vmtests.guest.process import Process
from vmtests.guest.shell import Result, Shell
from vmtests.guest.terminal import Terminal
from vmtests.guest.workspace import Workspace

if TYPE_CHECKING:
    from vmtests.image import Image
    from vmtests.kernel import Kernel

T = TypeVar("T")

#: The pause between two looks at a condition in the guest.
_TURN_USEC = 50_000


@dataclass(frozen=True)
class Guest:
    """A guest that runs, as boot() makes it.

    Attributes:
        port: of its SSH server, on 127.0.0.1.
        ram: the file that is the guest's memory.
        drgn_socket: a QMP monitor of its own for drgn.
        evidence: the folder of the console's log, QEMU's stderr, the QMP log, the commands' log and argv.sh.
        restored: it was started from a snapshot, not booted.
        seconds_to_first_command: from QEMU's start to the end of the first command over SSH.
        cpu_warnings: features of the CPU model that the accelerator lacks.
        patience: what deadlines for this guest are multiplied by.
        lifetime: what ends it; see own().
    """

    kernel: Kernel
    image: Image
    machine: Machine
    workspace: Workspace
    evidence: Path
    process: Process
    console: Console
    monitor: Monitor
    shell: Shell
    death: Death
    port: int
    ram: Path
    drgn_socket: Path
    restored: bool
    seconds_to_first_command: float
    cpu_warnings: tuple[str, ...]
    patience: float
    lifetime: ExitStack

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self.process.pid

    @property
    def argv(self) -> tuple[str, ...]:
        """QEMU's arguments, its path first."""
        return self.process.argv

    @property
    def alive(self) -> bool:
        """Whether no witness has reported a death."""
        return self.death.cause is None

    def own(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that ends with the guest, which may outlive the caller: a file that QEMU has mapped."""
        return self.lifetime.enter_context(context)

    def check_alive(self) -> None:
        """Raise what the guest died of, if it is dead.

        Raises:
            KernelFailure, HostFailure: with the end of the console.
        """
        self.death.check(f"the guest with kernel {self.kernel.name} is dead")

    def run(
        self,
        command: Sequence[str] | str,
        *,
        seconds: float = 60.0,
        check: bool = True,
        line: Callable[[str], None] | None = None,
        stdin: bytes | None = None,
    ) -> Result:
        """Run a command in the guest as root and return its status and output.

        Args:
            command: the words of one command, which no shell interprets; or a shell script, as one string.
            seconds: the deadline on real hardware; it is multiplied by the guest's patience.
            check: a status other than 0 is a KernelFailure.
            line: called with each line of its stdout, as it comes.
            stdin: what it reads; nothing by default.

        Raises:
            KernelFailure: it failed, did not end, or the guest died.
            HostFailure: QEMU died.
        """
        return self.shell.run(command, seconds=seconds, check=check, line=line, stdin=stdin)

    def stream(self, command: str, take: Callable[[bool, bytes], None], *, seconds: float) -> int:
        """Run a shell script in the guest whose output goes on as it comes; return its status, -1 for a signal.

        Args:
            command: the script.
            take: gets each piece of output, and whether it is of stderr.
            seconds: the deadline on real hardware.

        Raises:
            KernelFailure: it did not end, or the guest died.
            HostFailure: QEMU died.
        """
        return self.shell.stream(command, take, seconds=seconds)

    def interact(self, terminal: Terminal) -> None:
        """Open a login shell on the user's terminal until the user leaves it.

        Raises:
            KernelFailure, HostFailure: the guest died meanwhile.
        """
        self.shell.interact(terminal)

    def write(self, path: str, data: bytes) -> None:
        """Write a file in the guest; one of sysfs or procfs gets up to a page as a single write."""
        self.shell.output(f"cat > {shlex.quote(path)}", seconds=60, stdin=data)

    def read(self, path: str) -> bytes:
        """Return the content of a file in the guest."""
        return self.shell.output(["cat", path], seconds=60)

    def wait_until(self, condition: str, seconds: float = 30.0, *, what: str | None = None) -> str:
        """Wait in the guest, by one command, until a shell condition holds; return what it printed.

        Args:
            condition: shell code whose status says whether it holds; nothing that a user typed.
            seconds: the deadline on real hardware.
            what: what is waited for, for the message.

        Raises:
            KernelFailure: it did not come to hold, or the guest died.
        """
        # The guest counts turns, to stop by itself when nobody listens any more. It cannot count seconds: under icount
        # its clock jumps while it sleeps.
        turns = int(seconds * self.patience * 1_000_000 / _TURN_USEC)
        script = f"n=0\nuntil {{ {condition}\n}}; do [ $((n += 1)) -lt {turns} ] || exit 99; usleep {_TURN_USEC}; done"
        # The host's own deadline is for a guest that hangs.
        result = self.run(script, seconds=3 * seconds + 30, check=False)
        if result.status != 0:
            raise KernelFailure(
                f"{what or 'a condition in the guest'} did not come within {seconds * self.patience:g} s",
                command=(condition,),
                output=result.stdout + result.stderr,
                evidence=self.death.evidence,
            )
        return result.stdout

    def quiet(self) -> AbstractContextManager[None]:
        """Return the context in which the connection's own packets are not sent: under icount they would be counted."""
        return self.shell.quiet()

    def dmesg(self) -> str:
        """Return the kernel's log."""
        return self.run(["dmesg"]).stdout

    def power_off(self) -> None:
        """End the guest; leaving boot() does so anyway."""
        self.process.end()
