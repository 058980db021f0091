"""What the verbs look into: a guest, the dump in a run record, or a dump by its file."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests.errors import UsageError

if TYPE_CHECKING:
    from vmtests.memmap.session import Session

#: In a usage line.
METAVAR = "GUEST|RECORD|FILE"


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name one."""
    what = "a guest, by the name that `vmtests clean` shows; a run record that has a dump; or a dump"
    parser.add_argument("target", metavar=METAVAR, help=what)
    parser.add_argument("--vmlinux", type=Path, metavar="FILE", help="a dump's debug info, if it is not in the cache")


def look_into(target: str, vmlinux: Path | None) -> AbstractContextManager[Session]:
    """Return what opens it.

    Raises:
        UsageError: there is none, or the record has none or several.
        HostFailure: it cannot be opened.
    """
    from vmtests.guest import kept
    from vmtests.memmap.again import look_into
    from vmtests.vmcore import Dump

    path = Path(target)
    if path.is_dir():
        path = _dump_of(path)
    elif not path.is_file() and path.name != target:
        raise UsageError(f"there is no file {path}, and no folder of a run record")
    if path.is_file():
        return nullcontext(Dump.open(path, vmlinux).session())
    if vmlinux is not None:
        raise UsageError(f"--vmlinux goes with a dump, and {target} is no file")
    return look_into(kept.find(target))


def _dump_of(folder: Path) -> Path:
    """Return the dump that a run record has."""
    from vmtests import record
    from vmtests.record import EvidenceEntry

    there = [entry.path for entry in record.read(folder).entries(EvidenceEntry) if entry.kind == "vmcore"]
    dumps = [folder / path for path in there if (folder / path).is_file()]
    if not there:
        raise UsageError(f"{folder} has no dump: a run leaves one when the kernel fails a test (--dump auto)")
    if not dumps:
        raise UsageError(f"the dump of {folder} is not there any more: {', '.join(there)}")
    if len(dumps) > 1:
        raise UsageError(f"{folder} has {len(dumps)} dumps; name one: {', '.join(map(str, dumps))}")
    return dumps[0]
