"""`vmtests history`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode

_ADD = """\
  vmtests history add ~/history runs/monday
  vmtests history add ~/history runs/monday --reference frozen    times as ratios to a kernel that never changes
"""
_SHOW = """\
  vmtests history show ~/history
"""
_CHECK = """\
  vmtests history check ~/history                                 each night: exit code 1 on a change for the worse
"""
_ACCEPT = """\
  vmtests history accept ~/history 1f2e3d4c --reason "one more check in each page"
"""
_EXAMPLES = _ADD + _SHOW + _CHECK + _ACCEPT


def add(verbs: Verbs) -> None:
    """Add the verb."""
    history = verbs.add_parser("history", help="keep samples over many runs, say what changed", **examples(_EXAMPLES))
    whats = history.add_subparsers(metavar="WHAT", required=True)
    adding = whats.add_parser("add", help="add a run's samples", **examples(_ADD))
    adding.add_argument("folder", type=Path, metavar="DIR", help="the history's; made if need be")
    adding.add_argument("record", type=Path, metavar="RECORD", help="the folder of a run record")
    adding.add_argument("--reference", metavar="KERNEL", help="the kernel that times are held against")
    adding.set_defaults(act=_add)
    show = whats.add_parser("show", help="list the series", **examples(_SHOW))
    show.set_defaults(act=_show)
    check = whats.add_parser("check", help="what has changed; exit 1 on a new loss", **examples(_CHECK))
    check.set_defaults(act=_check)
    for parser in (show, check):
        parser.add_argument("folder", type=Path, metavar="DIR", help="the history's")
    for parser in (adding, show, check):
        parser.add_argument("--json", action="store_true", help="for a program")
    accept = whats.add_parser("accept", help="take a series' newest count as its baseline", **examples(_ACCEPT))
    accept.add_argument("folder", type=Path, metavar="DIR", help="the history's")
    accept.add_argument("series", metavar="SERIES", help="its id, as show and check print it")
    accept.add_argument("--reason", required=True, metavar="TEXT", help="why it may be so")
    accept.add_argument("--run", metavar="RUN", help="the run that has the count; the newest by default")
    accept.set_defaults(act=_accept)


def _add(arguments: argparse.Namespace) -> int:
    from vmtests import record
    from vmtests.report import offline
    from vmtests.timing import history

    found = history.add(arguments.folder, record.read(arguments.record), arguments.reference)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else offline.added(found))
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
