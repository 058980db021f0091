"""The pages of a night: an index, our report on each cell with its history, and what avocado has written."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jinja2

from vmtests.command import die_with_starter
from vmtests.errors import UsageError
from vmtests.host import facts
from vmtests.nightly.night import Attempt, Night
from vmtests.nightly.outcome import Outcome
from vmtests.report import formats, output
from vmtests.report.gather import gather

#: What may be in the night's folder, and in that of each avocado job.
_OURS = {
    "history.txt": "vmtests history check",
    "mail.txt": "the mail",
}
_AVOCADO = ("results.html", "results.json", "results.xml", "results.tap", "job.log")


def write(night: Night, head: str, body: str, history: Path) -> list[str]:
    """Write a report on each settled cell, index.html and summary.md; return what could not be made, and why.

    Args:
        night: the night.
        head: what became of it, in a line.
        body: its mail.
        history: the folder of the history, which may be missing.
    """
    (night.folder / "reports").mkdir(exist_ok=True)
    records = {name: attempt.record for name, attempt in night.settled().items()}
    # Forked, all at once: what draws takes longer to load than to draw a page.
    workers = max(1, min(facts.cpus(), len(records)))
    with ProcessPoolExecutor(
        workers, get_context("fork"), initializer=die_with_starter, initargs=(signal.SIGKILL,)
    ) as pool:
        places = [night.folder / _report(name) for name in records]
        said = pool.map(_write_report, places, records.values(), itertools.repeat(history))
        trouble = [f"no report on {name}: {why}" for name, why in zip(records, said, strict=True) if why]
    attempts = night.attempts()
    rows = [_row(night, one, attempts[one.cell]) for one in night.outcomes().values()]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    output.write(night.folder / "index.html", template.render(head=head, body=body, rows=rows, links=_links(night)))
    output.write(night.folder / "summary.md", _markdown(head, body, rows))
    return trouble


def _write_report(place: Path, record: Path, history: Path) -> str:
    """Write the report on a record, and return what is wrong with that, "" if nothing is."""
    try:
        output.write(place, formats.render("html", gather([record]), history=history if history.exists() else None))
    except UsageError as error:
        return error.message
    return ""


def _links(night: Night) -> list[tuple[str, str]]:
    found = [(title, name) for name, title in _OURS.items() if (night.folder / name).exists()]
    jobs = sorted(path for path in night.folder.glob("job-*") if path.is_dir())
    return found + [
        (f"avocado's {name}", f"{job.name}/{name}") for job in jobs for name in _AVOCADO if (job / name).exists()
    ]


def _report(cell: str) -> str:
    return f"reports/{cell}.html"


def _row(night: Night, one: Outcome, attempts: Sequence[Attempt]) -> dict[str, Any]:
    place = attempts[-1].folder if attempts else None
    return {
        "name": one.cell,
        "verdict": one.verdict,
        "reasons": one.reasons[:3],
        "attempts": len(attempts),
        "seconds": sum(attempt.outcome.seconds for attempt in attempts),
        "report": _report(one.cell) if (night.folder / _report(one.cell)).exists() else None,
        "files": None if place is None else os.path.relpath(place, night.folder),
    }


def _markdown(head: str, body: str, rows: Sequence[Mapping[str, Any]]) -> str:
    table = ["| cell | verdict | attempts | minutes |", "| --- | --- | --- | --- |"]
    table += [f"| {row['name']} | {row['verdict']} | {row['attempts']} | {row['seconds'] / 60:.1f} |" for row in rows]
    return "\n".join([f"# {head}", "", "```", body.rstrip(), "```", "", *table]) + "\n"
