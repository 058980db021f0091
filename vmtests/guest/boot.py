"""Booting a guest: from a kernel, an image and a machine to the first command over SSH, and to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import KernelFailure
from vmtests.guest import kept
from vmtests.guest.guest import Guest
from vmtests.guest.kept import Kept
from vmtests.guest.launch import Launched, Logs, Plan
from vmtests.guest.log import LIMIT
from vmtests.guest.machine import Machine
from vmtests.guest.start import BOOT_SECONDS, Start
from vmtests.image import Image
from vmtests.kernel import Kernel


@dataclass(frozen=True)
class Keeper:
    """Decides in the end whether a guest runs on.

    Attributes:
        wanted: given what ended the guest's context, None for success, returns what it is kept for; "" lets it end.
        kept: told of the guest that runs on.
        outlives: the guest also runs on when we die without having decided.
    """

    wanted: Callable[[BaseException | None], str]
    kept: Callable[[Kept], None]
    outlives: bool = True


@contextmanager
def boot(
    kernel: Kernel,
    image: Image,
    machine: Machine,
    *,
    evidence: Path,
    log_bytes: int = LIMIT,
    deadline: float | None = None,
    append: Sequence[str] = (),
    keeper: Keeper | None = None,
    restore: bool = False,
    alone: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Guest]:
    """Boot a guest; the body runs when its first command has, and leaving it ends the guest.

    Args:
        kernel, image, machine: what to boot.
        evidence: a folder, made if need be, for console.log, qemu.stderr, qmp.log, commands.log and argv.sh.
        log_bytes: what each of the logs may have.
        deadline: seconds that the boot may take on real hardware; a minute by default.
        append: more words for the kernel's command line.
        keeper: lets the guest outlive us under a supervisor; it can be looked into by others meanwhile.
        restore: start from the snapshot of such a guest, taken if there is none; from cold where that cannot be done.
        alone: no other guest may run at the same time.
        tell: called with a line about why a guest has to wait, or boots from cold all the same.

    Raises:
        KernelFailure: the kernel panicked, hangs, or did so later and the body did not notice.
        HostFailure: QEMU cannot be started, or ended by itself.
    """
    logs, outlives = Logs(evidence, log_bytes), keeper is not None and keeper.outlives
    plan = Plan(kernel, image, machine, tuple(append), logs, keeper is not None, outlives, alone, tell)
    start = Start(plan, deadline or BOOT_SECONDS)
    with ExitStack() as stack:
        error: BaseException | None = None
        try:
            guest = start.restored(stack) if restore else start.cold(stack)
            with _judged(guest):
                yield guest
        except BaseException as raised:
            error = raised
            raise
        finally:
            if keeper is not None and start.launched is not None:
                _keep(keeper, start.launched, stack, error)


@contextmanager
def _judged(guest: Guest) -> Iterator[None]:
    """Let a death of the guest that the body did not notice, or that explains its error, be the outcome."""
    death, process = guest.death, guest.process
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
        guest.check_alive()


def _keep(keeper: Keeper, launched: Launched, stack: ExitStack, error: BaseException | None) -> None:
    """Let the guest run on if that is wanted and QEMU still does: what `stack` would undo stays as it is."""
    if launched.process.wait(0) is None and (why := keeper.wanted(error)):
        keeper.kept(kept.keep(launched, stack.pop_all(), why))
