"""`vmtests memmap check`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests.cli.verbs import Verbs
from vmtests.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmtests.memmap import MemmapResult
    from vmtests.memmap.known import Known


def add(verbs: Verbs) -> None:
    """Add the verb."""
    whats = verbs.add_parser("memmap", help="check the memmaps of a guest that was left, or in a dump").add_subparsers(
        metavar="WHAT", required=True
    )
    check = whats.add_parser("check", help="look at every struct page; exit 1 when one is wrong")
    check.add_argument("target", metavar="GUEST|FILE", help="a guest that `vmtests clean` shows, or a dump")
    check.add_argument("--vmlinux", type=Path, metavar="FILE", help="a dump's debug info, if it is not in the cache")
    check.set_defaults(act=_check)


def _check(arguments: argparse.Namespace) -> int:
    from vmtests.report import words

    code = ExitCode.PASSED
    for known, result in _results(arguments.target, arguments.vmlinux):
        print(words.memmap(str(known), result.pages_checked, result.pages_expected, result.mismatches, result.seconds))
        for example in result.examples:
            print(f"  {example}")
        if not result.passed:
            code = ExitCode.KERNEL_FAILED
    return code


def _results(target: str, vmlinux: Path | None) -> Iterable[tuple[Known, MemmapResult]]:
    from vmtests.guest import kept
    from vmtests.memmap.again import check_again
    from vmtests.vmcore import Dump

    if Path(target).is_file():
        return Dump.open(Path(target), vmlinux).check()
    if vmlinux is not None:
        raise UsageError(f"--vmlinux goes with a dump, and {target} is no file")
    return check_again(kept.find(target))
