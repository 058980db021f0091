"""Looking again at a guest that runs outside of its test, by what the probes saw before."""

from __future__ import annotations

import socket
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

#: How long QEMU may take to greet on a monitor that nobody else holds.
GREETING_SECONDS = 5.0


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
    with guest.monitor() as monitor:
        _require_free(guest)
        with attach(_Left(guest.kernel, guest.drgn_socket, monitor)) as access:
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


def _require_free(guest: Kept) -> None:
    """See that nobody has drgn's monitor: it serves one at a time, and drgn would wait for its turn for ever."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GREETING_SECONDS)
        try:
            connection.connect(str(guest.drgn_socket))
            connection.recv(1)
        except TimeoutError:
            raise HostFailure(f"somebody else has {guest.name} open in drgn: leave that first") from None
        except OSError as error:
            raise HostFailure(f"{guest.name} has no monitor for drgn any more ({error.strerror})") from error
