"""Alerts: each finding is told once, as new; then it is known, and once more told when it is over.

The nightly's log holds what was told in which night. A night that was killed after it
has told something tells the same again: what counts is what earlier nights have told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vmtests.nightly.findings import Finding
from vmtests.timing.log import Log

NEW, KNOWN, FIXED = "new", "known", "fixed"


@dataclass(frozen=True)
class Alert:
    """A finding, its state, and the night that told it first."""

    finding: Finding
    state: str
    since: str


def judge(log: Log, night: str, found: Sequence[Finding], is_over: Callable[[Finding], bool]) -> list[Alert]:
    """Return the alerts of a night, the new ones first, and note them in the log.

    Args:
        log: of what was told.
        night: its name.
        found: all findings of the night, those too that the history says are over.
        is_over: says of a finding of an earlier night, which this one has not met, whether it could have.
    """
    with log.locked():
        lines, _ = log.read()
        earlier: dict[str, tuple[str, str, Finding]] = {}
        tonight = set()
        for line in lines:
            if line.value.get("kind") != "alert":
                continue
            try:
                finding, state = Finding.from_json(line.value["finding"]), line.value["state"]
                if line.value["night"] == night:
                    tonight.add((finding.key, state))
                else:
                    since = line.value["night"] if state == NEW else earlier[finding.key][1]
                    earlier[finding.key] = (state, since, finding)
            except (KeyError, TypeError):
                continue  # damaged: told again rather than never
        alerts = [*_met(night, found, earlier), *_over(found, earlier, is_over)]
        alerts.sort(key=lambda alert: (NEW, FIXED, KNOWN).index(alert.state))
        told = [
            {"kind": "alert", "night": night, "state": alert.state, "finding": alert.finding.to_json()}
            for alert in alerts
            if alert.state != KNOWN and (alert.finding.key, alert.state) not in tonight
        ]
        if told:
            log.append(told)
    return alerts


def _met(night: str, found: Sequence[Finding], earlier: dict[str, tuple[str, str, Finding]]) -> list[Alert]:
    alerts = []
    for finding in found:
        state, since, first = earlier.get(finding.key, (FIXED, night, finding))
        if finding.ended is None:
            is_known = state == NEW
            # The range that it came in is that of its first night.
            shown = replace(finding, before=first.before, after=first.after) if is_known else finding
            alerts.append(Alert(shown, KNOWN if is_known else NEW, since if is_known else night))
        elif state == NEW:
            alerts.append(Alert(finding, FIXED, since))
    return alerts


def _over(
    found: Sequence[Finding], earlier: dict[str, tuple[str, str, Finding]], is_over: Callable[[Finding], bool]
) -> list[Alert]:
    """Return the findings that earlier nights have told and this one has not met."""
    met = {finding.key for finding in found}
    alerts = []
    for key, (state, since, finding) in earlier.items():
        if state == NEW and key not in met:
            if is_over(finding):
                alerts.append(Alert(replace(finding, ended="not met any more"), FIXED, since))
            else:
                alerts.append(Alert(finding, KNOWN, since))
    return alerts
