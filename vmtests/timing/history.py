"""The history of runs: what night changed which figure, between which kernels, and who has seen it.

A folder with one file of lines that is only appended to (`log`): a line for each run with all its samples, for each
baseline that was accepted, for each alert that was raised. Series are keyed by all that makes figures comparable: any
change of the key begins a new series, and nothing is compared across. Instructions are kept for every kernel; times
only as ratios to the reference kernel booted in the same run, so that the host cancels out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtests.errors import ExitCode, UsageError
from vmtests.record import Record
from vmtests.timing import series
from vmtests.timing.figures import figures, samples
from vmtests.timing.log import Log
from vmtests.timing.series import Alert, Series

_NAME = "history.jsonl"


@dataclass(frozen=True)
class Shown:
    """What a history holds; `damaged` names the lines that were skipped."""

    series: tuple[Series, ...]
    damaged: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"series": [one.to_json() for one in self.series], "damaged": list(self.damaged)}


@dataclass(frozen=True)
class Checked:
    """The alerts of a history, the new ones first."""

    alerts: tuple[Alert, ...]
    damaged: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """A change for the worse fails the check that tells it first; those that are known, and gains, do not."""
        worse = any(alert.state == "new" and alert.change.size > 0 for alert in self.alerts)
        return ExitCode.KERNEL_FAILED if worse else ExitCode.PASSED

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"alerts": [one.to_json() for one in self.alerts], "damaged": list(self.damaged)}


@dataclass(frozen=True)
class Added:
    """The run's name in the history, the series that it belongs to, and what was left out of it and why."""

    run: str
    series: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"run": self.run, "series": list(self.series), "notes": list(self.notes)}


def add(folder: Path, record: Record, reference: str | None = None) -> Added:
    """Add a run to the history in `folder`, which is made if need be; a run that is there already is not repeated.

    Args:
        folder: of the history.
        record: of the run.
        reference: the kernel that times are divided by; the run's base if None.

    Raises:
        UsageError: the record has nothing to keep.
    """
    found, notes = figures(record, reference)
    if not found:
        raise UsageError(
            f"{record.folder} has no figure to keep: {'; '.join(notes) or 'one kernel alone has no ratio'}"
        )
    started, run = str(record.document["started"]), run_name(record)
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder / _NAME)
    with log.locked():
        lines, damaged = log.read()
        if any(line.value.get("kind") == "run" and line.value.get("run") == run for line in lines):
            notes.append(f"run {run} is in the history already: not added again")
        else:
            line = {"kind": "run", "run": run, "started": started, "record": str(record.folder)}
            kept = {"figures": [figure.to_json() for figure in found], "samples": samples(record)}
            log.append([{**line, **kept}])
    return Added(run, tuple(figure.series for figure in found), tuple(notes + damaged))


def run_name(record: Record) -> str:
    """Return the name of a run in every history: its day, and a digest of its record."""
    digest = hashlib.sha256(json.dumps(record.document, sort_keys=True).encode()).hexdigest()
    return f"{str(record.document['started'])[:10]}-{digest[:8]}"


def show(folder: Path) -> Shown:
    """Return all series of a history.

    Raises:
        UsageError: there is none.
    """
    log = _open(folder)
    with log.locked():
        lines, damaged = log.read()
    return Shown(*series.read(lines, damaged))


def check(folder: Path) -> Checked:
    """Return the alerts of a history; those that are new now are known from the next check on.

    Raises:
        UsageError: there is none.
    """
    log = _open(folder)
    with log.locked():
        found, damaged = series.read(*log.read())
        alerts = [
            Alert(one, change, "fixed" if change.fixed else "known" if change.after.run in one.known else "new")
            for one in found
            for change in one.changes()
        ]
        told = [
            {"kind": "alert", "series": alert.series.id, "run": alert.change.after.run}
            for alert in alerts
            if alert.change.after.run not in alert.series.known
        ]
        if told:
            log.append(told)
    return Checked(tuple(sorted(alerts, key=lambda alert: ("new", "known", "fixed").index(alert.state))), damaged)


def accept(folder: Path, name: str, reason: str, run: str | None = None) -> Series:
    """Make a run the baseline of a series from there on, and return the series as it was before.

    Args:
        folder: of the history.
        name: the series' id, or the beginning of it.
        reason: why the change is meant.
        run: the newest if None.

    Raises:
        UsageError: there is no such series or run, or no reason.
    """
    if not reason.strip():
        raise UsageError("accept needs a reason: say what changed the figure, and why it stays")
    log = _open(folder)
    with log.locked():
        known, _ = series.read(*log.read())
        found = [one for one in known if name and one.id.startswith(name)]
        if len(found) != 1:
            raise UsageError(f"{len(found)} series are called {name!r}; there are {' '.join(one.id for one in known)}")
        runs = [point.run for point in found[0].points]
        if run is not None and run not in runs:
            raise UsageError(f"series {found[0].id} has no run {run}; it has {' '.join(runs[-5:])}")
        log.append([{"kind": "accepted", "series": found[0].id, "run": run or runs[-1], "reason": reason.strip()}])
    return found[0]


def _open(folder: Path) -> Log:
    log = Log(folder / _NAME)
    if not log.path.exists():
        raise UsageError(f"{folder} holds no history: begin one with vmtests history add")
    return log
