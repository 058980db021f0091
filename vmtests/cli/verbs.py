"""What the verbs of the command are added to."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from vmtests.kernel import Recipe

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def colours() -> bool:
    """Return whether our output is shown in colours: on a terminal, unless NO_COLOR is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def doing(what: str) -> AbstractContextManager[object]:
    """Show on a terminal that something is going on that may take more than a second; nothing of it stays."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


def examples(text: str) -> dict[str, Any]:
    """Return what gives a verb's --help examples at its end."""
    return {"epilog": f"examples:\n{text}", "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_recipe(parser: argparse._ActionsContainer) -> None:
    """Add the options that make a kernel another one than its recipe says."""
    parser.add_argument("--patch", action="append", default=[], type=Path, metavar="FILE", help="put it on top")
    parser.add_argument("--kernel-tree", metavar="DIR[@REV]", help="a tree of yours; it is never written to")
    parser.add_argument("--config", type=Path, metavar="FILE", help="build with this .config")
    parser.add_argument("--config-fragment", action="append", default=[], type=Path, metavar="FILE", help="and these")
    parser.add_argument("--cc", default="gcc", choices=("gcc", "clang"), help="the compiler (gcc)")


def recipe(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of the kernel `name`, as these options make it; --patch adds to what it has."""
    from vmtests import kernel

    found = kernel.resolve(
        arguments.name,
        tree=arguments.kernel_tree,
        patches=arguments.patch,
        config=arguments.config,
        fragments=arguments.config_fragment,
        cc=arguments.cc,
    )
    if arguments.name == kernel.PATCH:
        return found
    return replace(found, patches=(*found.patches, *map(kernel.Patch.read, arguments.patch)))
