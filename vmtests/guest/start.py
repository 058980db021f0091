"""A guest's way to its first command: booted from cold, or restored from a snapshot."""

from __future__ import annotations

import contextlib
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from vmtests import host
from vmtests.errors import HostFailure, KernelFailure, VmtestsError
from vmtests.guest import kept
from vmtests.guest.guest import Guest
from vmtests.guest.keys import Keys
from vmtests.guest.launch import Launched, Plan, launch
from vmtests.guest.log import CappedLog
from vmtests.guest.monitor import Monitor
from vmtests.guest.pulse import Pulse
from vmtests.guest.shell import Shell
from vmtests.guest.snapshot import Snapshot, Unrestorable

#: What images/init prints once the SSH server listens; the kernel may get a line in before the end of this one.
READY = r"vmtests: ready\s*(?:$|\[)"

#: How long a boot may take, and how long its console may say nothing, on real hardware.
BOOT_SECONDS = 60.0
SILENCE_SECONDS = 10.0

_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")


@dataclass
class Start:
    """One guest's start; see boot() for what it is made of. `launched` is its QEMU, once there is one."""

    plan: Plan
    seconds: float
    launched: Launched | None = field(default=None, init=False)

    def cold(self, stack: ExitStack) -> Guest:
        """Boot; `stack` takes what ends the guest."""
        self.launched = launched = launch(self.plan)
        stack.enter_context(launched.lifetime)
        return self._log_in(stack, launched, restored=False)

    def restored(self, stack: ExitStack) -> Guest:
        """Start from the snapshot; boot from cold if it cannot be had or used."""
        snapshot = None
        patience = self.plan.patience
        try:
            snapshot = Snapshot.take(self.plan, seconds=self.seconds * patience, silence=SILENCE_SECONDS * patience)
            return self._from(snapshot, stack)
        except Unrestorable as error:
            self.plan.tell(f"booting from cold: {error.message}")
            if snapshot is not None:
                snapshot.discard()
        except KernelFailure:
            if not self.plan.supervised:
                raise
            # Let it die again where it can be looked at.
        return self.cold(stack)

    def _from(self, snapshot: Snapshot, stack: ExitStack) -> Guest:
        with ExitStack() as attempt:
            launched = snapshot.launch(self.plan)
            attempt.enter_context(launched.lifetime)
            verified = snapshot.verify()
            try:
                guest = self._log_in(attempt, launched, restored=True)
            except VmtestsError:
                verified()  # what a damaged snapshot does is nobody else's fault
                raise
            verified()
            stack.push(attempt.pop_all())
        self.launched = launched
        return guest

    def _log_in(self, stack: ExitStack, launched: Launched, *, restored: bool) -> Guest:
        """Hand in the keys, wait for the SSH server and run the first command."""
        plan, death, keys = self.plan, launched.death, Keys()
        kernel, patience = plan.kernel, plan.patience
        if plan.supervised:
            kept.begin(launched, kernel, keys, left=plan.outlives)
        with contextlib.suppress(OSError):  # QEMU has died, as the next wait will notice
            launched.keys.sendall(keys.message())
        port = _port(launched.monitor)
        launched.console.wait_for(
            READY, self.seconds * patience, silence=SILENCE_SECONDS * patience, what=f"booting kernel {kernel.name}"
        )
        shell = Shell(port, keys, stack.enter_context(CappedLog(plan.logs.commands, plan.logs.limit)), death, patience)
        stack.callback(shell.close)
        release = shell.run(["uname", "-r"], seconds=10).stdout.strip()
        took = time.monotonic() - launched.started
        # Not before: a kernel that boots has its interrupts off for long.
        death.pulse = Pulse(launched.monitor, patience)
        if release != kernel.release:
            raise HostFailure(f"kernel {kernel.name} should be {kernel.release}, but the guest runs {release}")
        if plan.supervised:
            kept.opened(launched, keys, port)
        return Guest(
            kernel=kernel,
            image=plan.image,
            machine=plan.machine,
            workspace=launched.workspace,
            evidence=plan.logs.folder,
            process=launched.process,
            console=launched.console,
            monitor=launched.monitor,
            shell=shell,
            death=death,
            port=port,
            ram=launched.ram,
            drgn_socket=launched.drgn,
            restored=restored,
            seconds_to_first_command=took,
            cpu_warnings=tuple(host.parse_missing_features(plan.logs.stderr.read_text(errors="replace"))),
            patience=patience,
            lifetime=launched.lifetime,
        )


def _port(monitor: Monitor) -> int:
    """Return the port on 127.0.0.1 that leads to the guest's port 22."""
    shown = monitor.human("info usernet")
    found = _FORWARD.search(shown)
    if found is None:
        raise HostFailure(f"QEMU's user network shows no forwarded port: {shown!r}")
    return int(found[1])
