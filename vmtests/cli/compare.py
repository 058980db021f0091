"""`vmtests compare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vmtests.cli.verbs import Verbs
from vmtests.errors import ExitCode


def add(verbs: Verbs) -> None:
    """Add the verb."""
    compare = verbs.add_parser("compare", help="hold two run records against each other, offline")
    compare.add_argument("records", type=Path, nargs=2, metavar="RECORD")
    compare.add_argument("--json", action="store_true", help="for a program")
    compare.set_defaults(act=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from vmtests import record
    from vmtests.report import offline
    from vmtests.timing.compare import compare

    found = compare(*(record.read(folder) for folder in arguments.records))
    print(json.dumps(found.to_json(), indent=1) if arguments.json else offline.comparison(found))
    return ExitCode.PASSED
