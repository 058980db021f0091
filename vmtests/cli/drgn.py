"""`vmtests drgn`."""

from __future__ import annotations

import argparse
import runpy
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmtests.cli.targets import add_target, look_into
from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode, UsageError, VmtestsError

if TYPE_CHECKING:
    from drgn import Object

    from vmtests.memmap import MemmapResult
    from vmtests.memmap.session import Session

_EXAMPLES = """\
  vmtests drgn guest-7e26f555                                  a guest that `vmtests clean` shows
  vmtests drgn runs/monday                                     the dump that a failed run has left
  vmtests drgn guest-7e26f555 -c "print(ranges)"
  vmtests drgn runs/monday -c "print(page(pfns[0]).flags)"     the first page's flags
  vmtests drgn runs/monday -c "check()"                        every struct page
  vmtests drgn /tmp/vmcore count.py --verbose                  a script, with arguments of its own

There as in drgn: prog, Object, cast, drgn.helpers.linux; and of ours:
"""

#: What is there besides what drgn brings: name to what it is.
_HELPERS = {
    "ranges": "every ZONE_DEVICE range that the kernel has: .name, .pfns, .pgmap, .truth",
    "pfns": "the pages of ranges[0] that have data, as a range: pfns[0], len(pfns)",
    "pgmap": "its struct dev_pagemap",
    "page(pfn)": "a page's struct page: page(pfns[0])",
    "check()": "compare every byte of every struct page with what it must hold, and print what is wrong",
}
_HELP = "\n".join(f"  {name:10} {what}" for name, what in _HELPERS.items())


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser("drgn", help="open drgn on a guest or a dump", **examples(f"{_EXAMPLES}{_HELP}\n"))
    add_target(parser)
    parser.add_argument("-c", "--exec", metavar="CODE", help="run this Python instead of asking for some")
    parser.add_argument("script", nargs="?", type=Path, metavar="SCRIPT", help="run this file instead")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG", help="SCRIPT's own")
    parser.set_defaults(act=_drgn)


def _drgn(arguments: argparse.Namespace) -> int:
    if arguments.exec is not None and arguments.script is not None:
        raise UsageError("give either --exec CODE or a script, not both")
    if arguments.script is not None and not arguments.script.is_file():
        raise UsageError(f"there is no script {arguments.script}")
    interactive = arguments.exec is None and arguments.script is None
    if interactive and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("drgn needs a terminal, and this is none: --exec CODE or a script runs without one")
    with look_into(arguments.target, arguments.vmlinux) as session:
        if interactive:
            return _ask(session)
        if arguments.exec is not None:
            code = arguments.exec
            return _run(session, lambda there: exec(compile(code, "<--exec>", "exec"), there))
        sys.argv = [str(arguments.script), *arguments.arguments]
        return _run(session, lambda there: runpy.run_path(str(arguments.script), there, "__main__"))


def _ask(session: Session) -> int:
    from drgn.cli import run_interactive, version_header

    print(version_header())
    run_interactive(
        session.program,
        banner_func=lambda banner: f"{banner}\n\n{session.title}\n{_HELP}\n{chr(10).join(map(repr, session.ranges))}",
        globals_func=lambda there: there | _helpers(session),
    )
    return ExitCode.PASSED


def _run(session: Session, code: Callable[[dict[str, Any]], object]) -> int:
    """Run a user's code; what it raises is theirs, and no bug of ours."""
    import drgn
    from drgn.cli import default_globals

    drgn.set_default_prog(session.program)
    try:
        code(default_globals(session.program) | _helpers(session))
    except VmtestsError:
        raise
    except Exception:
        traceback.print_exc()
        return ExitCode.USAGE
    finally:
        drgn.set_default_prog(None)
    return ExitCode.PASSED


def _helpers(session: Session) -> dict[str, Any]:
    first = session.ranges[0] if session.ranges else None
    return {
        "ranges": session.ranges,
        "pfns": first.pfns if first else range(0),
        "pgmap": first.pgmap if first else None,
        "page": _page(session),
        "check": partial(_check, session),
    }


def _page(session: Session) -> Callable[[int], Object]:
    """Return a function that Python's help() can tell about."""

    def page(pfn: int) -> Object:
        """Return the struct page of a page: struct page *."""
        return session.page(pfn)

    return page


def _check(session: Session) -> list[MemmapResult] | None:
    """Look at every struct page, print what was found, and return it where nobody prints it."""
    from vmtests.report import summary

    found = []
    for known, result in session.checks():
        print(summary.checked(known, result))
        found.append(result)
    return found
