"""The formats of a report, by the name that a user types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from vmtests.errors import UsageError
from vmtests.record import ComparisonEntry, DifferenceEntry, FlipEntry, MemmapEntry, PatchEntry, Record
from vmtests.report import headline, offline, statement, summary
from vmtests.report.completeness import completeness
from vmtests.report.gather import Gathered

#: What the end of a file's name says about what to write into it.
SUFFIXES = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json", ".txt": "text"}


def text(found: Gathered, *, width: int, colour: bool) -> str:
    """Return the tables that a run ends with, and the records against each other."""
    parts = [
        part
        for record in found.records
        for part in (summary.render(record, width=width, colour=colour), summary.places(record))
        if part
    ]
    parts += [
        f"{first.folder.name} and {second.folder.name}:\n{offline.comparison(comparison)}"
        for first, second, comparison in found.between
    ]
    return "\n\n".join(parts) + "\n"


def to_json(found: Gathered) -> str:
    """Return the verdicts and their figures for a program; the samples stay in the records."""
    document = {
        "headline": headline.headline(found.records),
        "records": [_record(record) for record in found.records],
        "between": [
            {"first": str(first.folder), "second": str(second.folder), **comparison.to_json()}
            for first, second, comparison in found.between
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _record(record: Record) -> dict[str, object]:
    kept = ("schema", "started", "argv", "seed", "exit_code", "verdict", "dmesg_warnings")
    lists = (PatchEntry, ComparisonEntry, MemmapEntry, FlipEntry, DifferenceEntry)
    return {
        "folder": str(record.folder),
        **{name: record.document[name] for name in (*kept, "host", "kernels", "namespaces")},
        **{kind.list_name: record.document.get(kind.list_name, []) for kind in lists},
        "rig_trouble": record.rig_trouble,
        "completeness": completeness(record).to_json(),
    }


def render(name: str, found: Gathered, *, history: Path | None = None, width: int = 100, colour: bool = False) -> str:
    """Return the report in one format: text, html, changelog, markdown or json.

    Args:
        name: of the format.
        found: the records.
        history: a folder whose series the page shows; only it can.
        width: of a terminal, in columns.
        colour: whether it shows colours.

    Raises:
        UsageError: there is no history in the folder, or the format cannot show it.
    """
    if history is not None and name != "html":
        raise UsageError(f"--history is drawn in the page only: give --format html, not {name}")
    makers: dict[str, Callable[[], str]] = {
        "text": lambda: text(found, width=width, colour=colour),
        "html": lambda: _page(found, history),
        "changelog": lambda: statement.plain(found.records),
        "markdown": lambda: statement.markdown(found.records),
        "json": lambda: to_json(found),
    }
    return makers[name]()


def _page(found: Gathered, history: Path | None) -> str:
    # matplotlib takes its time to be imported.
    from vmtests.report import page

    return page.render(found, history)
