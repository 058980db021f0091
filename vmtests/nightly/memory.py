"""What the nightly remembers of its nights when their folders are long gone: a file of lines, only appended to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vmtests.nightly.matrix import Cell
from vmtests.nightly.outcome import PASSED, Outcome
from vmtests.timing.log import Log


def log(folder: Path) -> Log:
    """Return the log of the nightly in a folder."""
    return Log(folder / "nightly.jsonl")


def note_runs(log: Log, night: str, runs: Mapping[str, Mapping[str, str]]) -> None:
    """Note which commit of each kernel a run of the history had: {run: {kernel: commit}}."""
    with log.locked():
        lines, _ = log.read()
        known = {run for line in lines if line.value.get("kind") == "run" for run in (line.value["run"],)}
        new = [
            {"kind": "run", "night": night, "run": run, "commits": dict(commits)}
            for run, commits in runs.items()
            if run not in known
        ]
        if new:
            log.append(new)


def commits(log: Log) -> dict[tuple[str, str], str]:
    """Return the commits by (run, kernel), of all nights."""
    with log.locked():
        lines, _ = log.read()
    return {
        (line.value["run"], kernel): commit
        for line in lines
        if line.value.get("kind") == "run"
        for kernel, commit in line.value["commits"].items()
    }


def note_night(log: Log, night: str, cells: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> None:
    """Note each tree's commit, and whether all its cells have passed."""
    trees = {
        cell.tree: {
            "commit": cell.commit,
            "passed": all(outcomes[one.name].verdict == PASSED for one in cells if one.tree == cell.tree),
        }
        for cell in cells
    }
    with log.locked():
        log.append([{"kind": "night", "night": night, "trees": trees}])


def last_good(log: Log, night: str) -> dict[str, str]:
    """Return the commit of each tree's last night before this one whose cells have all passed."""
    with log.locked():
        lines, _ = log.read()
    return {
        tree: said["commit"]
        for line in lines
        if line.value.get("kind") == "night" and line.value["night"] != night
        for tree, said in line.value["trees"].items()
        if said["passed"] and said["commit"] is not None
    }
