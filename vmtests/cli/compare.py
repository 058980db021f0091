"""`vmtests compare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode

_EXAMPLES = """\
  vmtests compare runs/monday runs/tuesday                     what changed between two runs, and was it reproduced
  vmtests compare runs/monday runs/tuesday --format markdown   for an issue or a merge request
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    compare = verbs.add_parser(
        "compare", help="hold two run records against each other, offline", **examples(_EXAMPLES)
    )
    compare.add_argument("records", type=Path, nargs=2, metavar="RECORD", help="the folder of a run record")
    compare.add_argument("--format", choices=("text", "markdown", "json"), default="text", help="text")
    compare.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    compare.set_defaults(act=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from vmtests import record
    from vmtests.report import offline
    from vmtests.timing.compare import compare

    found = compare(*(record.read(folder) for folder in arguments.records))
    match arguments.format:
        case "json":
            print(json.dumps(found.to_json(), indent=1))
        case "markdown":
            print(offline.comparison_markdown(found))
        case _:
            print(offline.comparison(found))
    return ExitCode.PASSED
