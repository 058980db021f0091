"""Writing a report where the user wants it: whole or not at all, and never over a record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vmtests import files
from vmtests.errors import UsageError
from vmtests.record import EvidenceEntry, Record


def refuse(path: Path | None, records: Sequence[Record]) -> None:
    """Raise UsageError if writing there would overwrite a record or its evidence."""
    if path is None:
        return
    target = path.resolve()
    if target.is_dir():
        raise UsageError(f"{path} is a folder: name a file in it, such as {path / 'report.html'}")
    for record in records:
        folder = record.folder.resolve()
        kept = [folder / "run.json", *(folder / entry.path for entry in record.entries(EvidenceEntry))]
        if target in kept:
            raise UsageError(f"{path} belongs to the record {record.folder}: give -o another file")


def write(path: Path, text: str) -> None:
    """Replace a file whole.

    Raises:
        UsageError: it cannot be written; what was there stays.
    """
    try:
        files.replace(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): give -o another file") from error
