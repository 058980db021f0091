"""`vmtests memmap check`."""

from __future__ import annotations

import argparse

from vmtests.cli.verbs import Verbs
from vmtests.errors import ExitCode


def add(verbs: Verbs) -> None:
    """Add the verb."""
    whats = verbs.add_parser("memmap", help="check the memmaps of a guest that was left").add_subparsers(
        metavar="WHAT", required=True
    )
    check = whats.add_parser("check", help="look at every struct page; exit 1 when one is wrong")
    check.add_argument("guest", metavar="GUEST", help="a guest that `pytest --keep` has left; see `vmtests clean`")
    check.set_defaults(act=_check)


def _check(arguments: argparse.Namespace) -> int:
    from vmtests.guest import kept
    from vmtests.memmap.again import check_again
    from vmtests.report import words

    code = ExitCode.PASSED
    for known, result in check_again(kept.find(arguments.guest)):
        print(words.memmap(str(known), result.pages_checked, result.pages_expected, result.mismatches, result.seconds))
        for example in result.examples:
            print(f"  {example}")
        if not result.passed:
            code = ExitCode.KERNEL_FAILED
    return code
