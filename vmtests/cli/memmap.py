"""`vmtests memmap check`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmtests.memmap import MemmapResult
    from vmtests.memmap.known import Known


_EXAMPLES = """\
  vmtests memmap check guest-7e26f555              a guest that --keep has left, by the name that `vmtests clean` shows
  vmtests memmap check runs/monday/guest-001-patched/vmcore
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    help_ = "check the memmaps of a guest that was left, or in a dump"
    whats = verbs.add_parser("memmap", help=help_, **examples(_EXAMPLES)).add_subparsers(metavar="WHAT", required=True)
    check = whats.add_parser("check", help="look at every struct page; exit 1 when one is wrong", **examples(_EXAMPLES))
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
