"""Looking again at a guest that runs outside of its test, by what the probes saw before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import HostFailure, UsageError
from vmtests.guest import Kept, Monitor
from vmtests.kernel import Kernel
from vmtests.memmap.access import Access, attach
from vmtests.memmap.check import check
from vmtests.memmap.known import Known
from vmtests.memmap.result import MemmapResult
from vmtests.memmap.session import Session


@dataclass(frozen=True)
class _Left:
    """The guest as attach() wants it."""

    kernel: Kernel
    drgn_socket: Path
    monitor: Monitor


@contextmanager
def look_into(guest: Kept) -> Iterator[Session]:
    """Open a guest as it runs now; nobody else can, until the context is left.

    Raises:
        HostFailure: it has ended, somebody else is connected to it, or its kernel has no debug info.
    """
    try:
        memmaps = tuple(map(Known.from_json, guest.memmaps()))
    except (KeyError, TypeError, ValueError) as error:
        raise HostFailure(f"what {guest.name} was left with is of another version of vmtests: {error!r}") from error
    with guest.monitor() as monitor, attach(_Left(guest.kernel, guest.drgn_socket, monitor)) as access:
        yield Session(
            title=f"{guest.name}, kernel {guest.kernel.name} {guest.kernel.release}",
            program=access.program,
            known=memmaps,
            checks=lambda: _checks(guest, access, memmaps),
        )


def _checks(guest: Kept, access: Access, memmaps: tuple[Known, ...]) -> Iterator[tuple[Known, MemmapResult]]:
    if not memmaps:
        raise UsageError(f"{guest.name} has no namespace that vmtests has made: there is no memmap to be checked")
    for known in memmaps:
        yield known, check(access, known.truth, node=known.node, poison=known.poison)
