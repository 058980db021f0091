"""What a night has found wrong, or changed: a finding for each cause, not for each cell that shows it.

Failures come from the cells' outcomes, changes of figures from the history (`vmtests history`), which also remembers
what was accepted. The key of a finding is the same every night as long as its cause is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from vmtests.nightly.matrix import Cell
from vmtests.nightly.outcome import PASSED, Outcome
from vmtests.timing.changes import Point
from vmtests.timing.series import Alert as SeriesAlert

#: How many figures of one change are shown.
_SHOWN = 8


@dataclass(frozen=True)
class Finding:
    """A cause and how it shows.

    Attributes:
        key: names the cause over the nights.
        kind: "memmap", "dmesg", "build", "kernel" or "count".
        tree: the tree that it is in.
        title: a line.
        lines: the figures.
        before, after: the commits, or what else says what ran, between which it came; None where nobody knows.
        reproduce: what to type to see it.
        worse: whether it fails the night that finds it.
        ended: why it is over; None while it lasts.
    """

    key: str
    kind: str
    tree: str
    title: str
    lines: tuple[str, ...]
    before: str | None
    after: str | None
    reproduce: str
    worse: bool = True
    ended: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "lines": list(self.lines)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """Return the finding; KeyError or TypeError if it is damaged."""
        return cls(**{**value, "lines": tuple(value["lines"])})


_TITLES = {
    "memmap": "struct pages are wrong",
    "dmesg": "the kernel complains of itself",
    "build": "the tree does not build",
    "kernel": "the kernel fails",
}


def failures(cells: Sequence[Cell], outcomes: Mapping[str, Outcome], last_good: Mapping[str, str]) -> list[Finding]:
    """Return a finding for each failure of a tree's kernel, whichever of its cells have met it.

    Args:
        cells: of the night.
        outcomes: by the cell's name.
        last_good: the commit of each tree's last night that was green.
    """
    failed = [
        (cell, outcomes[cell.name])
        for cell in cells
        if outcomes[cell.name].final and outcomes[cell.name].verdict != PASSED and outcomes[cell.name].kind
    ]
    found = []
    for (tree, kind), group in groupby(sorted(failed, key=_cause), key=_cause):
        members = list(group)
        first = members[0][0]
        names = " ".join(cell.name for cell, _ in members)
        lines = [f"{cell.name}: {reason}" for cell, one in members for reason in one.reasons[:2]]
        found.append(
            Finding(
                key=f"{tree} {kind} {_signature(kind, [one for _, one in members])}".strip(),
                kind=kind,
                tree=tree,
                title=f"{tree}: {_TITLES[kind]} ({names})",
                lines=tuple(lines[:_SHOWN]),
                before=last_good.get(tree),
                after=first.commit,
                reproduce=first.reproduce,
            )
        )
    return found


def _cause(one: tuple[Cell, Outcome]) -> tuple[str, str]:
    return one[0].tree, one[1].kind


def _signature(kind: str, outcomes: Iterable[Outcome]) -> str:
    """Return what tells two causes of one kind apart, whatever addresses, counts and times they come with."""
    if kind == "memmap":
        fields = {name for one in outcomes for reason in one.reasons for name in re.findall(r"; (\S+) at pfn", reason)}
        return " ".join(sorted(fields))
    first = next((reason for one in outcomes for reason in one.reasons), "")
    return re.sub(r"\[.*?\]|0x[0-9a-f]+|\d+", "", first)[:120].strip()


def changes(
    alerts: Sequence[SeriesAlert], cells: Sequence[Cell], commits: Mapping[tuple[str, str], str]
) -> list[Finding]:
    """Return a finding for each change of a tree's figures, whichever of its series show it.

    Args:
        alerts: as the history's check gives them.
        cells: of the night.
        commits: by run of the history and kernel, as far as known.
    """
    by_kernel = {cell.kernel: cell for cell in reversed(cells)}
    mine = [alert for alert in alerts if alert.series.key["kernel"] in by_kernel]

    def where(alert: SeriesAlert) -> tuple[str, str]:
        kernel = alert.series.key["kernel"]
        return kernel, ran(kernel, alert.change.after)

    def ran(kernel: str, point: Point) -> str:
        return commits.get((point.run, kernel), point.kernel)

    found = []
    for (kernel, after), group in groupby(sorted(mine, key=where), key=where):
        members = sorted(group, key=lambda alert: (alert.change.fixed is not None, -abs(alert.change.size)))
        largest = members[0]
        ended = largest.change.fixed if all(alert.change.fixed for alert in members) else None
        found.append(
            Finding(
                key=f"{kernel} count {after}",
                kind="count",
                tree=by_kernel[kernel].tree,
                title=f"{kernel}: {_figure(largest)}",
                lines=tuple(f"{_figure(alert)}  series {alert.series.id}" for alert in members[:_SHOWN]),
                before=ran(kernel, largest.change.before),
                after=after,
                reproduce=_reproduce(largest, cells, ran(kernel, largest.change.before)),
                worse=any(alert.change.size > 0 for alert in members),
                ended=ended,
            )
        )
    return found


def _figure(alert: SeriesAlert) -> str:
    change, key = alert.change, alert.series.key
    what = f"{key['namespace']} {'rebinds' if key['metric'] == 'rebind' else 'first bind'}"
    figure = f"{change.size * 100:+.2f} %, {change.old:.4f} -> {change.new:.4f} {alert.series.unit}"
    return f"{what}: {alert.word}, {figure}"


def _reproduce(alert: SeriesAlert, cells: Sequence[Cell], before: str) -> str:
    """Return the command of a cell that shows a change; with what was before in the place of the reference."""
    key = alert.series.key
    mine = [cell for cell in cells if cell.kernel == key["kernel"]]
    cell = next((cell for cell in mine if f"-{key['namespace']}-" in cell.name), mine[0])
    words = shlex.split(cell.reproduce)
    if cell.folder is not None and re.fullmatch(r"[0-9a-f]{40,64}", before):
        words[words.index("--kernel") + 1] = f"before={cell.folder}@{before}"
    return shlex.join(words)
