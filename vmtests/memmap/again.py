"""Checking the memmaps of a guest that was left by --keep, by what the probes saw before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import HostFailure, UsageError
from vmtests.guest import Kept, Monitor
from vmtests.kernel import Kernel
from vmtests.memmap.access import attach
from vmtests.memmap.check import check
from vmtests.memmap.known import Known
from vmtests.memmap.result import MemmapResult


@dataclass(frozen=True)
class _Left:
    """The guest as attach() wants it."""

    kernel: Kernel
    drgn_socket: Path
    monitor: Monitor


def check_again(guest: Kept) -> Iterator[tuple[Known, MemmapResult]]:
    """Look at every struct page of each namespace that the guest has had bound, as it was left.

    Raises:
        UsageError: it has no namespace.
        HostFailure: it has ended, somebody else is connected to it, or a namespace was bound again since.
    """
    try:
        memmaps = [Known.from_json(value) for value in guest.memmaps()]
    except (KeyError, TypeError, ValueError) as error:
        raise HostFailure(f"what {guest.name} was left with is of another version of vmtests: {error!r}") from error
    if not memmaps:
        raise UsageError(f"{guest.name} was left without a namespace: there is no memmap to be checked")
    with guest.monitor() as monitor, attach(_Left(guest.kernel, guest.drgn_socket, monitor)) as access:
        for known in memmaps:
            yield known, check(access, known.truth, node=known.node, poison=known.poison)
