"""`vmtests memmap check`."""

from __future__ import annotations

import argparse
import json

from vmtests.cli.targets import add_target, look_into
from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode

_EXAMPLES = """\
  vmtests memmap check guest-7e26f555              a guest that --keep has left, by the name that `vmtests clean` shows
  vmtests memmap check runs/monday                 the dump that a failed run has left
  vmtests memmap check runs/monday/guest-001-patched/vmcore
  vmtests memmap check /tmp/vmcore --json          for a program
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    help_ = "check the memmaps of a guest that was left, or in a dump"
    whats = verbs.add_parser("memmap", help=help_, **examples(_EXAMPLES)).add_subparsers(metavar="WHAT", required=True)
    check = whats.add_parser("check", help="look at every struct page; exit 1 when one is wrong", **examples(_EXAMPLES))
    add_target(check)
    check.add_argument("--json", action="store_true", help="for a program")
    check.set_defaults(act=_check)


def _check(arguments: argparse.Namespace) -> int:
    from vmtests.report import summary

    code, found = ExitCode.PASSED, []
    with look_into(arguments.target, arguments.vmlinux) as session:
        for known, result in session.checks():
            if not arguments.json:
                print(summary.checked(known, result))
            found.append({"namespace": known.namespace, "device": known.device, **result.to_json()})
            if not result.passed:
                code = ExitCode.KERNEL_FAILED
    if arguments.json:
        print(json.dumps({"exit_code": int(code), "memmaps": found}, indent=1))
    return code
