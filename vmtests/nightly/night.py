"""A night: its plan, and what became of its cells, as files in its folder; whoever comes back to it reads them.

NIGHT/plan.json                         commits, cells, deadline: made once, kept to
NIGHT/job-*/test-results/*/cell.json    an attempt at a cell, its record beside it; what avocado makes is there too
NIGHT/night.json                        written last: the night is over
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtests.errors import HostFailure, VmtestsError
from vmtests.nightly import outcome, trees
from vmtests.nightly.config import Config
from vmtests.nightly.matrix import Cell, cells
from vmtests.nightly.outcome import LOST, Outcome
from vmtests.nightly.trees import Resolved
from vmtests.report import output

_PLAN = "plan.json"
_OVER = "night.json"

#: What avocado puts before the name of a cell: the suite, and a number.
_TASK = re.compile(r"^(cells|retry-\d+)-\d+-")
_LOST = "it could not be started, or its runner was killed: see avocado.txt, and avocado's job.log"


@dataclass(frozen=True)
class Attempt:
    """One attempt at a cell; `folder` holds what came back, the record in it if there is one."""

    folder: Path
    outcome: Outcome

    @property
    def record(self) -> Path:
        """The folder of the record."""
        return self.folder / "record"


@dataclass(frozen=True)
class Night:
    """A night that has a plan; `deadline` is in seconds since the epoch, `disk` a budget in bytes."""

    folder: Path
    digest: str
    deadline: float
    disk: int
    cells: tuple[Cell, ...]
    ignored: tuple[tuple[str, str], ...]
    retries: int
    avocado: dict[str, Any]

    @property
    def name(self) -> str:
        """Such as "2026-11-27"."""
        return self.folder.name

    @property
    def results(self) -> Path:
        """The folder of all nights."""
        return self.folder.parents[1]

    @property
    def seconds_left(self) -> float:
        """Until the deadline; never less than 1."""
        return max(self.deadline - time.time(), 1.0)

    @property
    def over(self) -> bool:
        """Whether its verdict is written."""
        return (self.folder / _OVER).exists()

    def attempts(self) -> dict[str, list[Attempt]]:
        """Return the attempts at each cell, in the order in which they ended."""
        found: dict[str, list[Attempt]] = {cell.name: [] for cell in self.cells}
        folders = self.folder.glob("job-*/test-results/*-*-*")
        for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime_ns):
            name = _TASK.sub("", folder.name)
            if name in found:
                said = outcome.read(folder) or Outcome(name, LOST, "", (_LOST,))
                found[name].append(Attempt(folder, said))
        return found

    def settled(self) -> dict[str, Attempt]:
        """Return the attempt that settled each cell, of those that are settled."""
        final = {name: [one for one in tries if one.outcome.final] for name, tries in self.attempts().items()}
        return {name: tries[-1] for name, tries in final.items() if tries}

    def outcomes(self) -> dict[str, Outcome]:
        """Return what became of each cell in the end; of one that nothing is known of, that it is lost."""
        attempts = self.attempts()
        return {cell.name: _last(cell, attempts[cell.name]) for cell in self.cells}

    def unfinished(self) -> list[Cell]:
        """Return the cells that are still to be run."""
        outcomes = self.outcomes()
        return [cell for cell in self.cells if cell.trouble is None and not outcomes[cell.name].final]

    def close(self, verdict: dict[str, Any]) -> None:
        """Write the verdict: the night is over."""
        output.write(self.folder / _OVER, json.dumps(verdict, indent=1) + "\n")


def _last(cell: Cell, attempts: Sequence[Attempt]) -> Outcome:
    if cell.trouble is not None:
        return Outcome(cell.name, outcome.HOST_FAILED, "", (cell.trouble,))
    if not attempts:
        return Outcome(cell.name, LOST, "", (_LOST,))
    final = [attempt.outcome for attempt in attempts if attempt.outcome.final]
    return final[-1] if final else attempts[-1].outcome


def read(folder: Path) -> Night | None:
    """Return the night in a folder, None if it has no plan yet, or one of another version."""
    try:
        said = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
        return Night(
            folder,
            said["digest"],
            said["deadline"],
            said["disk"],
            tuple(map(Cell.from_json, said["cells"])),
            tuple((line, reason) for line, reason in said["ignored"]),
            said["retries"],
            said["avocado"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def folders(results: Path) -> list[Path]:
    """Return the folders of all nights that have a plan, the oldest first."""

    def began(folder: Path) -> tuple[str, int]:
        day, _, number = folder.name.partition(".")
        return day, int(number or 1)

    return sorted((plan.parent for plan in results.glob(f"nights/*/{_PLAN}")), key=began)


def nights(results: Path) -> list[Night]:
    """Return the nights in the nightly's folder, the oldest first."""
    return [night for folder in folders(results) if (night := read(folder)) is not None]


def go_on(folder: Path, config: Config) -> Night | None:
    """Return the last night if it was cut short and can still go on: its time is not over, its plan is as it was."""
    last = next(reversed(nights(folder)), None)
    if last is None or last.over or last.digest != config.digest or time.time() >= last.deadline:
        return None
    return last


def begin(folder: Path, config: Config) -> Night:
    """Resolve all trees and write the plan of a new night."""
    resolved = {tree.name: _resolve(config, tree.name) for tree in (config.reference, *config.trees)}
    place = _place(folder / "nights")
    plan = {
        "digest": config.digest,
        "deadline": time.time() + config.seconds,
        "disk": config.disk,
        "cells": [cell.to_json() for cell in cells(config, resolved)],
        "ignored": [[one.line, one.reason] for one in config.ignored],
        "retries": config.retries,
        "avocado": config.avocado,
    }
    output.write(place / _PLAN, json.dumps(plan, indent=1) + "\n")
    night = read(place)
    assert night is not None
    return night


def _resolve(config: Config, name: str) -> Resolved | str:
    """Return a tree's commit, or why it cannot be had; what may pass is tried again."""
    tree = next(tree for tree in (config.reference, *config.trees) if tree.name == name)
    for left in reversed(range(config.retries + 1)):
        try:
            return trees.resolve(tree)
        except HostFailure as error:
            if not left:
                return str(error)
        except VmtestsError as error:
            return str(error)
    raise AssertionError


def _place(folder: Path) -> Path:
    """Make the folder of a new night, called by its day; a second one of that day has a number."""
    day = datetime.datetime.now().astimezone().strftime("%Y-%m-%d")
    number = 1
    while True:
        place = folder / (day if number == 1 else f"{day}.{number}")
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            if not (place / _PLAN).exists():
                return place  # left by one that was killed before it had a plan
            number += 1
        else:
            return place
