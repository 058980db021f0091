"""`vmtests setup` and `vmtests doctor`."""

from __future__ import annotations

import argparse
import json
import shutil

from vmtests.cli.verbs import Verbs, colours, doing, examples

_SETUP = """\
  vmtests setup                        as root; as a user it prints what root has to type
  VMTESTS_SETUP=1 vmtests setup        as a user: by sudo
  vmtests setup --tests                also the browser that the unit tests look at the report's page with
"""
_DOCTOR = """\
  vmtests doctor                       a line for each thing that a run needs, and what to do where one is missing
  vmtests doctor --json                for a program; exit code 3 where a run is not possible
"""


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    setup = verbs.add_parser("setup", help="install the system packages that are missing", **examples(_SETUP))
    setup.add_argument("--tests", action="store_true", help="also what the unit tests want")
    setup.set_defaults(act=_setup)
    doctor = verbs.add_parser("doctor", help="say what this host can run, and why", **examples(_DOCTOR))
    doctor.add_argument("--json", action="store_true", help="for a program")
    doctor.set_defaults(act=_doctor)


def _setup(arguments: argparse.Namespace) -> int:
    from vmtests.host import packages

    with doing("looking for packages, and installing those that are missing"):
        return packages.setup(print, tests=arguments.tests)


def _doctor(arguments: argparse.Namespace) -> int:
    from vmtests.host import doctor

    with doing("looking at this host; where KVM is to be proven, that takes up to a minute"):
        found = doctor.examine()
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        from vmtests.report import table

        width = shutil.get_terminal_size((100, 24)).columns
        rows = [(row.status, row.name, row.found + (f"\n-> {row.advice}" if row.advice else "")) for row in found.rows]
        print(table.render(table.listing(rows), width=width, colour=colours()))
    return found.exit_code
