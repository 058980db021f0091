"""`vmtests memmap check`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmtests.cli.verbs import Verbs
from vmtests.errors import ExitCode


def add(verbs: Verbs) -> None:
    """Add the verb."""
    whats = verbs.add_parser("memmap", help="check the memmaps in a dump").add_subparsers(metavar="WHAT", required=True)
    check = whats.add_parser("check", help="look at every struct page; exit 1 when one is wrong")
    check.add_argument("target", metavar="FILE", help="a dump that vmtests wrote")
    check.add_argument("--vmlinux", type=Path, metavar="FILE", help="the debug info, if its kernel is not in the cache")
    check.set_defaults(act=_check)


def _check(arguments: argparse.Namespace) -> int:
    from vmtests.report import words
    from vmtests.vmcore import Dump

    code = ExitCode.PASSED
    for known, result in Dump.open(Path(arguments.target), arguments.vmlinux).check():
        print(words.memmap(str(known), result.pages_checked, result.pages_expected, result.mismatches, result.seconds))
        for example in result.examples:
            print(f"  {example}")
        if not result.passed:
            code = ExitCode.KERNEL_FAILED
    return code
