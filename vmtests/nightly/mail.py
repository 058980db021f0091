"""The night as text, ready to mail: headers, one line on what became of it, and the alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vmtests.nightly import trees
from vmtests.nightly.alerts import FIXED, KNOWN, NEW, Alert
from vmtests.nightly.gate import Gate


def line(night: str, gate: Gate, alerts: Sequence[Alert], *, red: bool) -> str:
    """Return the night in a line."""
    counts = [f"{sum(alert.state == state for alert in alerts)} {state}" for state in (NEW, KNOWN, FIXED)]
    if not red and all(count.startswith("0 ") for count in counts):
        return f"nightly {night}: quiet, {gate}"
    return f"nightly {night}: {'red' if red else 'green'}, {gate}; {', '.join(counts)}"


def mail(head: str, gate: Gate, alerts: Sequence[Alert], folders: Mapping[str, Path | None], index: Path) -> str:
    """Return the whole mail.

    Args:
        head: the night in a line.
        gate: its outcomes.
        alerts: the new ones first.
        folders: of the trees, where their commits can be looked up.
        index: the night's page, RESULTS/nights/NIGHT/index.html.
    """
    new = next((alert for alert in alerts if alert.state == NEW), None)
    subject = f"[vmtests] {head}" if new is None else f"[vmtests] {head.partition(',')[0]}: {new.finding.title}"
    return f"Subject: {subject}\nContent-Type: text/plain; charset=utf-8\n\n{body(head, gate, alerts, folders, index)}"


def body(head: str, gate: Gate, alerts: Sequence[Alert], folders: Mapping[str, Path | None], index: Path) -> str:
    """Return the mail without its headers: on a quiet night one line."""
    unfinished = [one for one in gate.outcomes if not one.final]
    parts = [f"{one.cell}: {one.verdict}: {(*one.reasons, '?')[0]}" for one in unfinished]
    parts += [f"{name}: settled by the second try: this host failed the first one" for name in gate.retried]
    history = index.parents[2] / "history"
    told = [_told(alert, folders.get(alert.finding.tree), history) for alert in alerts]
    if not parts and not told:
        return f"{head}\n"
    return "\n\n".join([head, *(["\n".join(parts)] if parts else []), *told, f"the night: {index}"]) + "\n"


def _told(alert: Alert, folder: Path | None, history: Path) -> str:
    finding = alert.finding
    if alert.state == KNOWN:
        return f"known since {alert.since}: {finding.title}"
    if alert.state == FIXED:
        return f"fixed, told {alert.since}: {finding.title}\n  {finding.ended}"
    log = trees.between(folder, finding.before, finding.after)
    lines = [
        f"NEW {finding.title}",
        *(f"  {text}" for text in finding.lines),
        f"  between: {finding.before or 'no green night before'}",
        f"  and:     {finding.after or 'the recipe as it is now'}",
        *(f"    {text}" for text in log),
        "  to see it again:",
        f"    {finding.reproduce}",
    ]
    if finding.kind == "count":
        lines.append(f"  if it is meant, for each series: vmtests history accept {history} SERIES --reason ...")
    return "\n".join(lines)
