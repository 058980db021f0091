"""A night from its beginning, or from where it was cut short, to its verdict."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from vmtests import cache, errors, record
from vmtests.command import run, tied
from vmtests.errors import ExitCode, HostFailure, UsageError
from vmtests.nightly import alerts, config, disk, findings, mail, memory, outcome, pages
from vmtests.nightly import gate as gates
from vmtests.nightly import night as nights
from vmtests.nightly.alerts import NEW
from vmtests.nightly.findings import Finding
from vmtests.nightly.night import Night
from vmtests.nightly.outcome import Outcome
from vmtests.nightly.runner import END_SECONDS
from vmtests.report import offline, output
from vmtests.timing import history

#: How long avocado may take to end after the deadline of its cells, in seconds.
_GRACE = 3 * END_SECONDS


def run_night(path: Path, folder: Path) -> ExitCode:
    """Run a night, print what is to be mailed, and return the night's exit code.

    Args:
        path: of nightly.toml.
        folder: of the results of all nights; made if need be.

    Raises:
        UsageError: nightly.toml is not valid.
        HostFailure: another night is running, or there is no room.
    """
    wanted = config.read(path)
    folder.mkdir(parents=True, exist_ok=True)
    with cache.locked(folder / ".lock", seconds=0):
        began = time.monotonic()
        night = nights.go_on(folder, wanted)
        if night is not None:
            _say(f"going on with {night.name}: {len(night.unfinished())} of {len(night.cells)} cells are left")
        else:
            _keep_to_budget(wanted.disk, folder)
            night = nights.begin(folder, wanted)
            _say(f"{night.name}: {len(night.cells)} cells, {wanted.seconds / 3600:.1f} h at most")
        if night.unfinished():
            _run_cells(night)
        return _tell(night, folder, began)


def _keep_to_budget(budget: int, folder: Path) -> None:
    try:
        disk.keep_to(budget, folder, nights.folders(folder), _say)
    except HostFailure as error:
        _say(str(error))  # the cells that this host is to run will find the same, and the mail says it


def _say(text: str) -> None:
    print(f"nightly: {text}", file=sys.stderr, flush=True)


def _run_cells(night: Night) -> None:
    """Run avocado in a process of its own, which ends when we do; nothing depends on how it ends."""
    command = tied("TERM", [sys.executable, "-m", "vmtests.nightly.suite", str(night.folder)])
    try:
        run(
            command,
            seconds=night.seconds_left + _GRACE,
            # Programs of the packages that stand beside avocado, whether its environment is activated or not.
            env={"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])},
            log=night.folder / "avocado.txt",
            line=_say,
            check=False,
        )
    except HostFailure as error:
        _say(str(error))


def _tell(night: Night, folder: Path, began: float) -> ExitCode:
    """Judge what is there, tell it, and close the night."""
    outcomes, attempts = night.outcomes(), night.attempts()
    gate = gates.gate(outcomes, attempts, len(night.cells))
    log = memory.log(folder)
    found = _changes(night, folder)
    found += findings.failures(night.cells, outcomes, memory.last_good(log, night.name))
    told = alerts.judge(log, night.name, found, lambda finding: _is_over(finding, night, outcomes))
    new = any(alert.state == NEW and alert.finding.worse for alert in told)
    code = errors.worst([gate.exit_code, ExitCode.KERNEL_FAILED if new else ExitCode.PASSED])
    head = mail.line(night.name, gate, told, red=code is not ExitCode.PASSED)
    trees = {cell.tree: Path(cell.folder) if cell.folder else None for cell in night.cells}
    index = night.folder / "index.html"
    text = mail.body(head, gate, told, trees, index)
    output.write(night.folder / "mail.txt", mail.mail(head, gate, told, trees, index))
    for trouble in pages.write(night, head, text, folder / "history"):
        _say(trouble)
    memory.note_night(log, night.name, night.cells, outcomes)
    spent = sum(one.outcome.seconds for tries in attempts.values() for one in tries)
    whole = time.monotonic() - began
    night.close({"exit_code": int(code), "seconds": round(whole, 1), "cell_seconds": round(spent, 1), "line": head})
    _link(folder, night)
    print(text, end="")
    return code


def _changes(night: Night, folder: Path) -> list[Finding]:
    """Add the night's records to the history, and return what has changed in it."""
    place = folder / "history"
    runs: dict[str, dict[str, str]] = {}
    cells = {cell.name: cell for cell in night.cells}
    for name, attempt in night.settled().items():
        cell = cells[name]
        try:
            added = history.add(place, record.read(attempt.record), cell.reference)
        except UsageError as error:  # such as one whose tree does not build
            _say(f"{name}: not in the history: {error.message}")
            continue
        runs[added.run] = {cell.kernel: cell.commit} if cell.commit else {}
    memory.note_runs(memory.log(folder), night.name, runs)
    if not place.exists():
        return []
    checked = history.check(place)
    output.write(night.folder / "history.txt", offline.alerts(checked) + "\n")
    return findings.changes(checked.alerts, night.cells, memory.commits(memory.log(folder)))


def _is_over(finding: Finding, night: Night, outcomes: Mapping[str, Outcome]) -> bool:
    """Whether a failure that was not met tonight would have been, had it been there."""
    mine = [outcomes[cell.name].verdict for cell in night.cells if cell.tree == finding.tree]
    if finding.kind == "build":
        return bool(mine) and all(verdict in (outcome.PASSED, outcome.KERNEL_FAILED) for verdict in mine)
    return bool(mine) and all(verdict == outcome.PASSED for verdict in mine)


def _link(folder: Path, night: Night) -> None:
    temporary = folder / ".latest"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(night.folder.relative_to(folder))
    temporary.replace(folder / "latest")
