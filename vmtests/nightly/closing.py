"""The end of a night: what has changed is found and told, once, and all is written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vmtests import errors, record
from vmtests.errors import ExitCode, UsageError
from vmtests.nightly import alerts, findings, mail, memory, outcome, pages
from vmtests.nightly import gate as gates
from vmtests.nightly.alerts import NEW
from vmtests.nightly.findings import Finding
from vmtests.nightly.night import Night
from vmtests.nightly.outcome import Outcome
from vmtests.report import offline, output
from vmtests.timing import history


def tell(night: Night, folder: Path, began: float, say: Callable[[str], None]) -> ExitCode:
    """Judge what is there, print and write down what is to be mailed, and close the night.

    Args:
        night: whose cells have all ended, or cannot run any more.
        folder: of the results of all nights.
        began: when this call of the nightly did, by time.monotonic().
        say: told what could not be made.
    """
    outcomes, attempts = night.outcomes(), night.attempts()
    gate = gates.gate(outcomes, attempts, len(night.cells))
    log = memory.log(folder)
    found = _changes(night, folder, say)
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
        say(trouble)
    memory.note_night(log, night.name, night.cells, outcomes)
    spent = sum(one.outcome.seconds for tries in attempts.values() for one in tries)
    whole = time.monotonic() - began
    night.close({"exit_code": int(code), "seconds": round(whole, 1), "cell_seconds": round(spent, 1), "line": head})
    _link(folder, night)
    print(text, end="")
    return code


def _changes(night: Night, folder: Path, say: Callable[[str], None]) -> list[Finding]:
    """Add the night's records to the history, and return what has changed in it."""
    place = folder / "history"
    runs: dict[str, dict[str, str]] = {}
    cells = {cell.name: cell for cell in night.cells}
    for name, attempt in night.settled().items():
        cell = cells[name]
        try:
            added = history.add(place, record.read(attempt.record), cell.reference)
        except UsageError as error:  # such as one whose tree does not build
            say(f"{name}: not in the history: {error.message}")
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
