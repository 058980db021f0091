"""`vmtests history`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vmtests.cli.verbs import Verbs
from vmtests.errors import ExitCode


def add(verbs: Verbs) -> None:
    """Add the verb."""
    history = verbs.add_parser("history", help="keep samples over many runs, and say when something changed")
    whats = history.add_subparsers(metavar="WHAT", required=True)
    adding = whats.add_parser("add", help="add a run's samples")
    adding.add_argument("folder", type=Path, metavar="DIR")
    adding.add_argument("record", type=Path, metavar="RECORD")
    adding.add_argument("--reference", metavar="KERNEL", help="the kernel that times are held against")
    adding.set_defaults(act=_add)
    show = whats.add_parser("show", help="list the series")
    show.set_defaults(act=_show)
    check = whats.add_parser("check", help="hold the newest samples against what was accepted; exit 1 on a new loss")
    check.set_defaults(act=_check)
    for parser in (show, check):
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument("--json", action="store_true", help="for a program")
    accept = whats.add_parser("accept", help="take a series' newest count as its baseline")
    accept.add_argument("folder", type=Path, metavar="DIR")
    accept.add_argument("series", metavar="SERIES")
    accept.add_argument("--reason", required=True, metavar="TEXT", help="why it may be so")
    accept.add_argument("--run", metavar="RUN", help="the run that has the count; the newest by default")
    accept.set_defaults(act=_accept)


def _add(arguments: argparse.Namespace) -> int:
    from vmtests import record
    from vmtests.report import offline
    from vmtests.timing import history

    print(offline.added(history.add(arguments.folder, record.read(arguments.record), arguments.reference)))
    return ExitCode.PASSED


def _show(arguments: argparse.Namespace) -> int:
    from vmtests.report import offline
    from vmtests.timing import history

    found = history.show(arguments.folder)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else offline.history(found))
    return ExitCode.PASSED


def _check(arguments: argparse.Namespace) -> int:
    from vmtests.report import offline
    from vmtests.timing import history

    found = history.check(arguments.folder)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else offline.alerts(found))
    return found.exit_code


def _accept(arguments: argparse.Namespace) -> int:
    from vmtests.timing import history

    print(history.accept(arguments.folder, arguments.series, arguments.reason, arguments.run))
    return ExitCode.PASSED
