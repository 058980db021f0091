"""Booting a guest: from a kernel, an image and a machine to the first command over SSH."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmtests import host
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import kept
from vmtests.guest.guest import Guest
from vmtests.guest.kept import Kept
from vmtests.guest.keys import Keys
from vmtests.guest.launch import Launched, Logs, launch
from vmtests.guest.log import CappedLog
from vmtests.guest.machine import Machine
from vmtests.guest.monitor import Monitor
from vmtests.guest.shell import Shell
from vmtests.image import Image
from vmtests.kernel import Kernel

#: What images/init prints once the SSH server listens.
READY = r"vmtests: ready\s*$"

#: How long a boot may take, and how long its console may say nothing, on real hardware.
BOOT_SECONDS = 60.0
SILENCE_SECONDS = 10.0

_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")


@dataclass(frozen=True)
class Keeper:
    """Decides in the end whether a guest runs on.

    Attributes:
        wanted: given what ended the guest's context, None for success, returns what it is kept for; "" lets it end.
        kept: told of the guest that runs on.
    """

    wanted: Callable[[BaseException | None], str]
    kept: Callable[[Kept], None]


@contextmanager
def boot(
    kernel: Kernel,
    image: Image,
    machine: Machine,
    *,
    evidence: Path,
    deadline: float | None = None,
    append: Sequence[str] = (),
    keeper: Keeper | None = None,
) -> Iterator[Guest]:
    """Boot a guest; the body runs when its first command has, and leaving it ends the guest.

    Args:
        kernel, image, machine: what to boot.
        evidence: a folder, made if need be, for console.log, qemu.stderr, qmp.log, commands.log and argv.sh.
        deadline: seconds that the boot may take on real hardware; a minute by default.
        append: more words for the kernel's command line.
        keeper: lets the guest outlive us under a supervisor.

    Raises:
        KernelFailure: the kernel panicked, hangs, or did so later and the body did not notice.
        HostFailure: QEMU cannot be started, or ended by itself.
    """
    logs, keys = Logs(evidence), Keys()
    with ExitStack() as stack:
        launched = launch(kernel, image, machine, logs=logs, append=append, supervised=keeper is not None)
        stack.enter_context(launched.lifetime)
        if keeper is not None:
            kept.begin(launched, kernel, keys)
        try:
            guest = _log_in(stack, launched, kernel, image, keys, deadline or BOOT_SECONDS)
            if keeper is not None:
                kept.opened(launched, keys, guest.port)
            with _judged(launched, kernel):
                yield guest
        except BaseException as error:
            _keep(keeper, launched, stack, error)
            raise
        _keep(keeper, launched, stack, None)


def _log_in(stack: ExitStack, launched: Launched, kernel: Kernel, image: Image, keys: Keys, seconds: float) -> Guest:
    """Hand in the keys, wait for the SSH server and run the first command."""
    machine, death, logs = launched.machine, launched.death, launched.logs
    patience = machine.patience(kernel.config_values())
    with contextlib.suppress(OSError):  # QEMU has died, as the next wait will notice
        launched.keys.sendall(keys.message())
    port = _port(launched.monitor)
    launched.console.wait_for(
        READY, seconds * patience, silence=SILENCE_SECONDS * patience, what=f"booting kernel {kernel.name}"
    )
    shell = Shell(port, keys, stack.enter_context(CappedLog(logs.commands)), death, patience)
    stack.callback(shell.close)
    release = shell.run(["uname", "-r"], seconds=10).stdout.strip()
    took = time.monotonic() - launched.started
    if release != kernel.release:
        raise HostFailure(f"kernel {kernel.name} should be {kernel.release}, but the guest runs {release}")
    return Guest(
        kernel=kernel,
        image=image,
        machine=machine,
        workspace=launched.workspace,
        evidence=logs.folder,
        process=launched.process,
        console=launched.console,
        monitor=launched.monitor,
        shell=shell,
        death=death,
        port=port,
        ram=launched.ram,
        drgn_socket=launched.drgn,
        seconds_to_first_command=took,
        cpu_warnings=tuple(host.parse_missing_features(logs.stderr.read_text(errors="replace"))),
        patience=patience,
        lifetime=launched.lifetime,
    )


@contextmanager
def _judged(launched: Launched, kernel: Kernel) -> Iterator[None]:
    """Let a death of the guest that the body did not notice, or that explains its error, be the outcome."""
    death, process = launched.death, launched.process
    try:
        yield
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
        death.check(f"the guest with kernel {kernel.name} is dead")


def _keep(keeper: Keeper | None, launched: Launched, stack: ExitStack, error: BaseException | None) -> None:
    """Let the guest run on if that is wanted and QEMU still does: what `stack` would undo stays as it is."""
    if keeper is not None and launched.process.wait(0) is None and (why := keeper.wanted(error)):
        keeper.kept(kept.keep(launched, stack.pop_all(), why))


def _port(monitor: Monitor) -> int:
    """Return the port on 127.0.0.1 that leads to the guest's port 22."""
    shown = monitor.human("info usernet")
    found = _FORWARD.search(shown)
    if found is None:
        raise HostFailure(f"QEMU's user network shows no forwarded port: {shown!r}")
    return int(found[1])
