"""The `vmtests` command. No logic of its own; what a verb needs is imported when it runs, so that --help is quick."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from vmtests.errors import ExitCode, VmtestsError

_EXAMPLES = """\
examples:
  vmtests setup                                      install what is missing on this host
  vmtests doctor                                     what can this host run, and why
  vmtests kernel list                                the kernels that there are recipes for
  vmtests kernel build patched                       build one, or find it in the cache
  vmtests kernel build patch --kernel-tree ~/linux --patch 0001-mine.patch
  vmtests compare runs/monday runs/tuesday           two run records, offline
  vmtests history add ~/history runs/monday          keep a run's samples; `show`, `check`, `accept`

The tests themselves are run by pytest: pytest vmtests/ -k rebind
"""


def _setup(_: argparse.Namespace) -> int:
    from vmtests.host import packages

    return packages.setup(print)


def _doctor(arguments: argparse.Namespace) -> int:
    from vmtests.host import doctor

    found = doctor.examine()
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        from vmtests.report import table

        width = shutil.get_terminal_size((100, 24)).columns
        rows = [(row.status, row.name, row.found + (f"\n-> {row.advice}" if row.advice else "")) for row in found.rows]
        print(table.render(table.listing(rows), width=width, colour=sys.stdout.isatty()))
    return found.exit_code


def _kernel_list(arguments: argparse.Namespace) -> int:
    from vmtests import kernel

    recipes = [kernel.load(name) for name in kernel.known()]
    if arguments.json:
        print(json.dumps([recipe.to_json() for recipe in recipes], indent=1))
    else:
        for recipe in recipes:
            print(f"{recipe.name:12} {recipe.describe()}")
    return ExitCode.PASSED


def _kernel_build(arguments: argparse.Namespace) -> int:
    from vmtests import kernel
    from vmtests.report.progress import Progress

    recipe = kernel.resolve(
        arguments.name,
        tree=arguments.kernel_tree,
        patches=arguments.patch,
        config=arguments.config,
        fragments=arguments.config_fragment,
        cc=arguments.cc,
    )
    if arguments.name != kernel.PATCH:
        recipe = replace(recipe, patches=(*recipe.patches, *map(kernel.Patch.read, arguments.patch)))
    progress = Progress(sys.stderr)
    with progress.task(f"kernel {recipe.name}") as update:
        built = kernel.build(recipe, progress=update)
    if arguments.json:
        print(json.dumps(built.to_json(), indent=1))
    else:
        spent = "cached" if built.build_seconds is None else f"built in {built.build_seconds:.0f} s"
        print(f"{built.name}: {built.release}, {built.source}, {spent}\n  {built.image}\n  {built.vmlinux}")
    return ExitCode.PASSED


def _compare(arguments: argparse.Namespace) -> int:
    from vmtests import record
    from vmtests.report import offline
    from vmtests.timing.compare import compare

    found = compare(*(record.read(folder) for folder in arguments.records))
    print(json.dumps(found.to_json(), indent=1) if arguments.json else offline.comparison(found))
    return ExitCode.PASSED


def _history_add(arguments: argparse.Namespace) -> int:
    from vmtests import record
    from vmtests.report import offline
    from vmtests.timing import history

    print(offline.added(history.add(arguments.folder, record.read(arguments.record), arguments.reference)))
    return ExitCode.PASSED


def _history_show(arguments: argparse.Namespace) -> int:
    from vmtests.report import offline
    from vmtests.timing import history

    found = history.show(arguments.folder)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else offline.history(found))
    return ExitCode.PASSED


def _history_check(arguments: argparse.Namespace) -> int:
    from vmtests.report import offline
    from vmtests.timing import history

    found = history.check(arguments.folder)
    print(json.dumps(found.to_json(), indent=1) if arguments.json else offline.alerts(found))
    return found.exit_code


def _history_accept(arguments: argparse.Namespace) -> int:
    from vmtests.timing import history

    print(history.accept(arguments.folder, arguments.series, arguments.reason, arguments.run))
    return ExitCode.PASSED


def _add_history(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    history = verbs.add_parser("history", help="keep samples over many runs, and say when something changed")
    whats = history.add_subparsers(metavar="WHAT", required=True)
    add = whats.add_parser("add", help="add a run's samples")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("record", type=Path, metavar="RECORD")
    add.add_argument("--reference", metavar="KERNEL", help="the kernel that times are held against")
    add.set_defaults(act=_history_add)
    show = whats.add_parser("show", help="list the series")
    show.set_defaults(act=_history_show)
    check = whats.add_parser("check", help="hold the newest samples against what was accepted; exit 1 on a new loss")
    check.set_defaults(act=_history_check)
    for parser in (show, check):
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument("--json", action="store_true", help="for a program")
    accept = whats.add_parser("accept", help="take a series' newest count as its baseline")
    accept.add_argument("folder", type=Path, metavar="DIR")
    accept.add_argument("series", metavar="SERIES")
    accept.add_argument("--reason", required=True, metavar="TEXT", help="why it may be so")
    accept.add_argument("--run", metavar="RUN", help="the run that has the count; the newest by default")
    accept.set_defaults(act=_history_accept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmtests",
        description="Is the memmap of a ZONE_DEVICE range still right, and what did a patch do to the time it takes?",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    setup = verbs.add_parser("setup", help="install the system packages that are missing")
    setup.set_defaults(act=_setup)

    doctor = verbs.add_parser("doctor", help="say what this host can run, and why")
    doctor.add_argument("--json", action="store_true", help="for a program")
    doctor.set_defaults(act=_doctor)

    kernels = verbs.add_parser("kernel", help="build kernels, list recipes").add_subparsers(
        metavar="WHAT", required=True
    )
    listing = kernels.add_parser("list", help="the kernels that there are recipes for")
    listing.add_argument("--json", action="store_true", help="for a program")
    listing.set_defaults(act=_kernel_list)
    build = kernels.add_parser("build", help="build a kernel, or find it in the cache")
    build.add_argument("name", metavar="NAME", help="a recipe's name, to which --patch adds; or `patch`")
    build.add_argument("--patch", action="append", default=[], type=Path, metavar="FILE")
    build.add_argument("--kernel-tree", metavar="DIR[@REV]", help="a tree of yours; it is never written to")
    build.add_argument("--config", type=Path, metavar="FILE")
    build.add_argument("--config-fragment", action="append", default=[], type=Path, metavar="FILE")
    build.add_argument("--cc", default="gcc", choices=("gcc", "clang"))
    build.add_argument("--json", action="store_true", help="for a program")
    build.set_defaults(act=_kernel_build)

    compare = verbs.add_parser("compare", help="hold two run records against each other, offline")
    compare.add_argument("records", type=Path, nargs=2, metavar="RECORD")
    compare.add_argument("--json", action="store_true", help="for a program")
    compare.set_defaults(act=_compare)
    _add_history(verbs)
    return parser


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(int(ExitCode.TERMINATED))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(arguments.act(arguments))
    except VmtestsError as error:
        print(f"vmtests: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
