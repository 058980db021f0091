"""`vmtests drgn`."""

from __future__ import annotations

import argparse
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmtests.cli.targets import add_target, look_into
from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode, UsageError, VmtestsError

if TYPE_CHECKING:
    from vmtests.memmap.session import Range, Session

_EXAMPLES = """\
  vmtests drgn guest-7e26f555                                  a guest that `vmtests clean` shows
  vmtests drgn runs/monday                                     the dump that a failed run has left
  vmtests drgn guest-7e26f555 -c "print(ranges())"
  vmtests drgn runs/monday -c "print(page(pfns[0]).flags)"     the first page's flags
  vmtests drgn runs/monday -c "check()"                        every struct page
  vmtests drgn /tmp/vmcore count.py -- --verbose               a script, and its own arguments

There as in drgn: prog, Object, cast, drgn.helpers.linux; and of ours:
"""

#: What is there besides what drgn brings: name to what it is.
_HELPERS = {
    "ranges()": "every ZONE_DEVICE range that the kernel has: .name, .pfns, .pgmap, .truth",
    "pfns": "the pages of the first one that hold data, as a range: pfns[0], len(pfns)",
    "pgmap": "its struct dev_pagemap",
    "page(pfn)": "the struct page of a page: page(pfns[0])",
    "check()": "compare every byte of every struct page, print what is wrong, say whether all is right",
}
_HELP = "\n".join(f"  {name:10} {what}" for name, what in _HELPERS.items())


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = verbs.add_parser("drgn", help="open drgn on a guest or a dump", **examples(f"{_EXAMPLES}{_HELP}\n"))
    add_target(parser)
    parser.add_argument("-c", "--exec", metavar="CODE", help="run this Python instead of asking for some")
    parser.add_argument("script", nargs="*", metavar="SCRIPT", help="run this file instead; its options go after --")
    parser.set_defaults(act=_drgn)


def _drgn(arguments: argparse.Namespace) -> int:
    code, script = arguments.exec, arguments.script
    if code is not None and script:
        raise UsageError("give either --exec CODE or a script, not both")
    if script and not Path(script[0]).is_file():
        raise UsageError(f"there is no script {script[0]}")
    interactive = code is None and not script
    if interactive and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("drgn needs a terminal, and this is none: --exec CODE or a script runs without one")
    with look_into(arguments.target, arguments.vmlinux) as session:
        if interactive:
            return _ask(session)
        if code is not None:
            return _run(session, lambda there: exec(compile(code, "<--exec>", "exec"), there))
        sys.argv = script
        return _run(session, lambda there: runpy.run_path(script[0], there, "__main__"))


def _ask(session: Session) -> int:
    from drgn.cli import run_interactive, version_header

    print(version_header())
    run_interactive(
        session.program,
        banner_func=lambda banner: "\n".join([banner, "", session.title, _HELP, *map(repr, _ranges(session))]),
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


def _ranges(session: Session) -> tuple[Range, ...]:
    """Return the ranges of a kernel, which may have died of one; then there is the more to look at."""
    from drgn import FaultError

    try:
        return session.ranges()
    except (VmtestsError, FaultError, LookupError) as error:
        print(f"vmtests: the ranges cannot be read: {error}", file=sys.stderr)
        return ()


def _helpers(session: Session) -> dict[str, Any]:
    from vmtests.report import summary

    def check() -> bool:
        """Compare every byte of every struct page with what it must hold, and return whether all is right."""
        passed = True
        for known, result in session.checks():
            print(summary.checked(known, result))
            passed &= result.passed
        return passed

    first = next(iter(_ranges(session)), None)
    return {
        "ranges": session.ranges,
        "pfns": first.pfns if first else range(0),
        "pgmap": first.pgmap if first else None,
        "page": session.page,
        "check": check,
    }
