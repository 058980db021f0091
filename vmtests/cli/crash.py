"""`vmtests crash`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vmtests.cli.verbs import Verbs, doing, examples

_EXAMPLES = """\
  vmtests crash runs/monday/guest-001-patched/vmcore          crash(8) is fetched at its first use, and not installed
  vmtests crash runs/monday/guest-001-patched/vmcore -- -s    with options of its own
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    crash = verbs.add_parser("crash", help="open a dump in a crash(8) that is new enough", **examples(_EXAMPLES))
    crash.add_argument("file", type=Path, metavar="FILE", help="a dump, whoever wrote it")
    crash.add_argument("--vmlinux", type=Path, metavar="FILE", help="the debug info, if its kernel is not in the cache")
    crash.add_argument("options", nargs="*", metavar="OPTION", help="crash's own options, after --")
    crash.set_defaults(act=_crash)


def _crash(arguments: argparse.Namespace) -> int:
    from vmtests.vmcore import Dump
    from vmtests.vmcore.crash import Crash

    with doing("fetching crash(8), if it is not in the cache"):
        argv = Crash.fetch().argv(Dump.open(arguments.file, arguments.vmlinux), *arguments.options)
    os.execv(argv[0], argv)
