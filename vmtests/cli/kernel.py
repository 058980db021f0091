"""`vmtests kernel list` and `vmtests kernel build`."""

from __future__ import annotations

import argparse
import json
import sys

from vmtests.cli.verbs import Verbs, add_recipe, examples, recipe
from vmtests.errors import ExitCode

_LIST = """\
  vmtests kernel list                  the kernels that there are recipes for
"""
_BUILD = """\
  vmtests kernel build stock           Debian's own build: fetched, no compiler needed
  vmtests kernel build base            built at its first use, then found in the cache
  vmtests kernel build patched --patch 0005-more.patch
  vmtests kernel build patch --kernel-tree ~/linux@v7.3 --patch 0001-mine.patch
  vmtests kernel build base --config-fragment kasan.config --cc clang
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    kernels = verbs.add_parser("kernel", help="build kernels, list recipes", **examples(_LIST + _BUILD))
    whats = kernels.add_subparsers(metavar="WHAT", required=True)
    listing = whats.add_parser("list", help="the kernels that there are recipes for", **examples(_LIST))
    listing.add_argument("--json", action="store_true", help="for a program")
    listing.set_defaults(act=_list)
    build = whats.add_parser("build", help="build a kernel, or find it in the cache", **examples(_BUILD))
    build.add_argument("name", metavar="NAME", help="a recipe's name, to which --patch adds; or `patch`")
    add_recipe(build)
    build.add_argument("--json", action="store_true", help="for a program")
    build.set_defaults(act=_build)


def _list(arguments: argparse.Namespace) -> int:
    from vmtests import kernel

    recipes = [kernel.load(name) for name in kernel.known()]
    if arguments.json:
        print(json.dumps([one.to_json() for one in recipes], indent=1))
    else:
        for one in recipes:
            print(f"{one.name:12} {one.describe()}")
    return ExitCode.PASSED


def _build(arguments: argparse.Namespace) -> int:
    from vmtests import kernel
    from vmtests.report import words
    from vmtests.report.progress import Progress

    wanted = recipe(arguments)
    progress = Progress(sys.stderr)
    with progress.task(f"kernel {wanted.name}") as update:
        built = kernel.build(wanted, progress=update)
    if arguments.json:
        print(json.dumps(built.to_json(), indent=1))
    else:
        spent = "cached" if built.build_seconds is None else f"built in {built.build_seconds:.0f} s"
        print(f"{built.name}: {built.release}, {built.source}, {spent}\n  {built.image}\n  {built.vmlinux}")
        if built.added_options:
            print(f"  {words.added_options(arguments.config, built.added_options)}")
    return ExitCode.PASSED
