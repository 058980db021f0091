"""`vmtests clean`."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests.cli.verbs import Verbs, doing, examples
from vmtests.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vmtests.cache import Entry
    from vmtests.guest import Kept

_EXAMPLES = """\
  vmtests clean                           show the guests that were left, how to get in, and what the caches take
  vmtests clean guest-0123abcd            end that guest
  vmtests clean --guests                  end all guests that were left
  vmtests clean --older-than 30d          show what has not been used for 30 days
  vmtests clean --older-than 30d --yes    free it
  vmtests clean --size 5G --yes           free what was used longest ago, until the caches take 5 GiB
  vmtests clean --json                    the same for a program

What a running vmtests uses is never freed.
"""

_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def add(verbs: Verbs) -> None:
    """Add the verb."""
    clean = verbs.add_parser(
        "clean",
        help="end guests that were left by --keep, and free caches",
        **examples(_EXAMPLES),
    )
    clean.add_argument("names", nargs="*", metavar="GUEST", help="a guest to end")
    clean.add_argument("--guests", action="store_true", help="end all guests that were left, but those of open shells")
    clean.add_argument("--older-than", metavar="AGE", help="free what was not used for so long, such as 12h, 30d, 8w")
    clean.add_argument("--size", metavar="SIZE", help="free what was used longest ago until so much is left: 0, 5G")
    clean.add_argument("--yes", action="store_true", help="do free it, instead of showing what would go")
    clean.add_argument("--json", action="store_true", help="for a program")
    clean.set_defaults(act=_clean)


def _clean(arguments: argparse.Namespace) -> int:
    from vmtests import cache
    from vmtests.guest import Workspace, kept

    age = None if arguments.older_than is None else _age(arguments.older_than)
    size = None if arguments.size is None else _size(arguments.size)
    if arguments.yes and age is None and size is None:
        raise UsageError("--yes frees what --older-than or --size names: give one of them")
    removed = [*Workspace.sweep(), *cache.sweep()]
    left = [guest for guest in kept.find_all() if guest.left]
    ending = left if arguments.guests else [kept.find(name) for name in arguments.names]
    if not arguments.json:
        for folder in removed:
            print(f"removed {folder}, which nobody owned any more")
    for guest in ending:
        kept.end(guest)
        if not arguments.json:
            print(f"ended {guest.name}")
    choosing = age is not None or size is not None
    with doing("looking at the cache"):
        found = cache.entries()
    if choosing:
        chosen = cache.choose(found, time.time(), age, size)
        found = [entry for entry in chosen if not arguments.yes or cache.free(entry)]
    if arguments.json:
        print(json.dumps(_state(removed, ending, found, freed=arguments.yes), indent=1))
    elif choosing:
        _print(found)
        print(f"{_sum(found)} freed" if arguments.yes else f"{_sum(found)} would be freed: add --yes")
    elif not ending:
        _show(found)
    return ExitCode.PASSED


def _state(removed: Sequence[Path], ended: Sequence[Kept], found: Sequence[Entry], *, freed: bool) -> dict[str, object]:
    """Return what was done, what runs, and the cache's entries: those that were asked for, or all."""
    from vmtests.guest import kept

    guests = [
        {"name": one.name, "kernel": one.kernel.name, "why": one.why, "left": one.left, "ways_in": one.ways_in()}
        for one in kept.find_all()
    ]
    entries = [{**vars(one), "path": str(one.path), "kind": one.kind} for one in found]
    return {
        "removed": list(map(str, removed)),
        "ended": [one.name for one in ended],
        "guests": guests,
        "freed": freed,
        "cache": entries,
    }


def _sum(entries: Sequence[Entry]) -> str:
    from vmtests.report import words

    return words.size_about(sum(entry.size_bytes for entry in entries))


def _show(found: Sequence[Entry]) -> None:
    from vmtests import cache
    from vmtests.guest import kept
    from vmtests.report import summary

    guests = kept.find_all()
    for guest in guests:
        print(summary.kept(guest.name, guest.kernel.name, guest.why, guest.ways_in()) + "\n")
    if not guests:
        print("no guest was left\n")
    _print(found)
    print(f"{_sum(found)} in {cache.root()}; see `vmtests clean --help`")


def _print(entries: Sequence[Entry]) -> None:
    from vmtests.report import words

    for entry in entries:
        use = "in use" if entry.in_use else f"used {words.age(time.time() - entry.used)} ago"
        print(f"{words.size_about(entry.size_bytes):>9}  {entry.kind:9}  {_title(entry)}, {use}")


def _title(entry: Entry) -> str:
    """Return what an entry is, as far as it says so itself."""

    for name in ("kernel.json", "snapshot.json"):
        path = entry.path / name
        if path.is_file():
            said = json.loads(path.read_text())
            parts = [said.get("kernel"), said.get("release"), said.get("source")]
            parts += [patch["name"] for patch in said.get("patches", ())]
            return f"{entry.path.name} ({' '.join(part for part in parts if part)})"
    return entry.path.name


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+)([hdw])", text.strip())
    if found is None:
        raise UsageError(f"--older-than {text}: write hours, days or weeks, such as 12h, 30d or 8w")
    return float(int(found[1]) * _SECONDS[found[2]])


def _size(text: str) -> int:
    from vmtests.run.options import parse_size

    return 0 if text.strip() == "0" else parse_size(text)
