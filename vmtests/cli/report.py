"""`vmtests report`."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from vmtests.cli.verbs import Verbs, colours, doing, examples
from vmtests.errors import ExitCode

FORMATS = ("text", "html", "changelog", "markdown", "json")

_EXAMPLES = """\
  vmtests report runs/monday                             the tables that the run ended with
  vmtests report runs/monday -o page.html                one page, opens from disk, needs no script and no network
  vmtests report runs/counts runs/times -o page.html     one page about both: instructions of one, time of the other
  vmtests report runs/monday -o page.html --history ~/history
  vmtests report runs/monday --format changelog          for a patch's changelog or cover letter, 72 columns
  vmtests report runs/monday --format markdown           for an issue or a merge request
  vmtests report runs/monday --json                      verdicts and figures for a program
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    report = verbs.add_parser(
        "report", help="show run records: a page, tables, a changelog's text", **examples(_EXAMPLES)
    )
    report.add_argument("records", type=Path, nargs="+", metavar="RECORD", help="the folder of a run record")
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write there; .html and .md choose the format"
    )
    report.add_argument("--format", choices=FORMATS, help="text unless FILE says otherwise")
    report.add_argument("--json", action="store_true", help="the same as --format json")
    report.add_argument("--history", type=Path, metavar="DIR", help="draw the series of a history in the page")
    report.set_defaults(act=_report)


def _report(arguments: argparse.Namespace) -> int:
    from vmtests.report import formats, output
    from vmtests.report.gather import gather

    name = arguments.format or ("json" if arguments.json else None)
    if name is None and arguments.output is not None:
        name = formats.SUFFIXES.get(arguments.output.suffix.lower())
    found = gather(arguments.records)
    output.refuse(arguments.output, found.records)
    with doing("drawing"):
        made = formats.render(
            name or ("html" if arguments.history and arguments.output is None else "text"),
            found,
            history=arguments.history,
            width=shutil.get_terminal_size((100, 24)).columns,
            colour=arguments.output is None and colours(),
        )
    if arguments.output is None:
        sys.stdout.write(made)
    else:
        output.write(arguments.output, made)
    return ExitCode.PASSED
