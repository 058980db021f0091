"""How many guests run at once: each claims processors and memory, and waits while those of others leave no room.

A claim is a file in the folder of the guest's files, and counts as long as the folder has an owner. So it holds for all
runs of this user, and no claim outlives a crash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from vmtests.guest import size
from vmtests.host import facts

_FILE = "claim.json"

#: What all guests together may have of the host's memory. A guest writes to a fraction of its own.
SHARE = 0.8


@dataclass(frozen=True)
class Claim:
    """What a guest takes of the host. `pid` is who waits for it."""

    cpus: int
    memory_bytes: int
    pid: int = 0
    kept: bool = False


NOTHING = Claim(0, 0)


@dataclass(frozen=True)
class Obstacle:
    """Why a guest has to wait; `for_good`: waiting is of no use."""

    text: str
    for_good: bool


def obstacle(claim: Claim, folders: Iterable[Path]) -> Obstacle | None:
    """Return what keeps a guest from starting beside those that the living folders belong to.

    A process that has a guest already does not wait for a second one: two such could wait for each other. Nor does the
    only guest wait, however large.
    """
    others = [found for folder in folders if (found := _read(folder)) is not None]
    # One whose tests' process was killed, and which was to be kept, has nothing to do any more either.
    working = [other for other in others if not other.kept and psutil.pid_exists(other.pid)]
    if claim == NOTHING or any(other.pid == os.getpid() for other in working):
        return None
    cpus = sum(other.cpus for other in working)
    if working and cpus + claim.cpus > facts.cpus():
        return Obstacle(
            f"guests of other runs, or of other workers of this one, use {cpus} of {facts.cpus()} processors", False
        )
    memory, total = sum(other.memory_bytes for other in others), int(facts.memory()[0] * SHARE)
    if others and memory + claim.memory_bytes > total:
        kept = [other for other in others if other.kept]
        return Obstacle(
            f"{len(others)} guests, {len(kept)} of them left by --keep, have {size.text(memory)} of the "
            f"{total / size.GIB:.1f} GiB that guests may have, and this one needs {size.text(claim.memory_bytes)}"
            + ("; `vmtests clean --guests` ends those that were left" if kept else ""),
            for_good=not working,
        )
    return None


def write(folder: Path, claim: Claim) -> None:
    """Put down a claim, in place of the last one."""
    temporary = folder / f".{_FILE}.new"
    temporary.write_text(json.dumps(asdict(claim)))
    temporary.replace(folder / _FILE)


def _read(folder: Path) -> Claim | None:
    with suppress(OSError, ValueError, TypeError):
        return Claim(**json.loads((folder / _FILE).read_text()))
    return None
