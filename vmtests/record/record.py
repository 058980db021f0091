"""Writing and reading `run.json`: validated both ways, replaced whole, never half."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jsonschema

from vmtests import files
from vmtests.errors import ExitCode, UsageError
from vmtests.record.entries import (
    BindEntry,
    ComparisonEntry,
    DifferenceEntry,
    Entry,
    EvidenceEntry,
    FlipEntry,
    GuestEntry,
    HostEntry,
    KernelEntry,
    MemmapEntry,
    NamespaceEntry,
    PatchEntry,
)

#: The number of the schema that this version writes, and the newest that it reads.
SCHEMA = 1

_LISTS: tuple[type[Entry], ...] = (
    KernelEntry,
    PatchEntry,
    GuestEntry,
    NamespaceEntry,
    BindEntry,
    MemmapEntry,
    FlipEntry,
    DifferenceEntry,
    ComparisonEntry,
    EvidenceEntry,
)

_VERDICTS = {
    ExitCode.PASSED: "passed",
    ExitCode.KERNEL_FAILED: "kernel-failed",
    ExitCode.USAGE: "host-failed",
    ExitCode.HOST_FAILED: "host-failed",
    ExitCode.BUG: "bug",
    ExitCode.NO_VERDICT: "no-verdict",
    # A run that was ended by hand reached no verdict.
    ExitCode.INTERRUPTED: "no-verdict",
    ExitCode.TERMINATED: "no-verdict",
}

_E = TypeVar("_E", bound=Entry)


def _schema() -> dict[str, Any]:
    text = Path(__file__).with_name("schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def validate(document: object) -> None:
    """Raise ValueError, naming the field and the rule, unless `document` is a record."""
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_schema()).iter_errors(document))
    if error is not None:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        raise ValueError(f"run.json{where}: {error.message}")


@dataclass(frozen=True)
class Record:
    """A record that was read. `document` is all of it, unknown fields too."""

    folder: Path
    document: dict[str, Any]

    def entries(self, kind: type[_E]) -> tuple[_E, ...]:
        """Return the entries of one list, in the order they were written."""
        return tuple(kind.from_json(value) for value in self.document.get(kind.list_name, ()))

    @property
    def dmesg_warnings(self) -> list[str]:
        """What the kernels complained of."""
        return [str(line) for line in self.document["dmesg_warnings"]]

    @property
    def rig_trouble(self) -> list[str]:
        """Why its counts cannot be trusted, if they cannot."""
        return [str(line) for line in self.document.get("rig_trouble", ())]

    @property
    def unbuildable(self) -> dict[str, str]:
        """The kernels whose source does not build, and why."""
        return {one["kernel"]: one["reason"] for one in self.document.get("unbuildable", ())}

    @property
    def host(self) -> HostEntry | None:
        """The host, or None when the run ended before it was known."""
        value = self.document["host"]
        return None if value is None else HostEntry.from_json(value)


def read(folder: Path) -> Record:
    """Read the record in `folder` (or the run.json itself).

    Raises:
        UsageError: there is none, it is cut off, not valid, or of a newer schema.
    """
    path = folder if folder.is_file() else folder / "run.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: name the folder of a run record, as --record made it") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a run record ({error}): it may be cut off") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UsageError(f"{path} has schema {schema}, this vmtests reads up to {SCHEMA}: use a newer vmtests")
    try:
        validate(document)
    except ValueError as error:
        raise UsageError(f"{path} is not a valid run record: {error}") from error
    return Record(path.parent, document)


class RecordWriter:
    """The record of the run that is going on; each save replaces run.json whole.

    Args:
        folder: made if need be; a record that it holds already is not overwritten.
        argv: the command line of the run.
        seed: what every random choice of the run comes from.
    """

    def __init__(self, folder: Path, *, argv: Sequence[str], seed: int) -> None:
        if (folder / "run.json").exists():
            raise UsageError(f"{folder} holds a run record already: give --record another folder, or remove it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the record's folder {folder} cannot be made ({error.strerror}): give --record another"
            ) from error
        self.folder = folder
        self._host: HostEntry | None = None
        self._entries: dict[str, list[Entry]] = {kind.list_name: [] for kind in _LISTS}
        self._head: dict[str, Any] = {
            "schema": SCHEMA,
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "argv": list(argv),
            "seed": seed,
        }
        self.dmesg_warnings: list[str] = []
        #: Why counts of this run cannot be trusted; see timing.rig.
        self.rig_trouble: list[str] = []
        #: The kernels whose source does not build, and why.
        self.unbuildable: dict[str, str] = {}
        self._pairs: dict[str, Any] | None = None

    def set_host(self, host: HostEntry) -> None:
        """Note the host that runs the guests."""
        self._host = host

    def note_pairs(self, begun: int, ended: str | None) -> None:
        """Note how many pairs of boots were begun, and why there were no more; None when the plan had no more."""
        self._pairs = {"begun": begun, "ended": ended}

    def add(self, *entries: Entry) -> None:
        """Append entries to their lists; one that is there already, to the letter, is not repeated."""
        for entry in entries:
            known = self._entries[entry.list_name]
            if entry not in known:
                known.append(entry)

    def entries(self, kind: type[_E]) -> tuple[_E, ...]:
        """Return what has been added of one kind so far."""
        return tuple(entry for entry in self._entries[kind.list_name] if isinstance(entry, kind))

    def add_evidence(self, kind: str, path: Path, *, test: str | None = None) -> None:
        """Note a file in the record's folder; `test` is the failed one that it tells of."""
        self.add(EvidenceEntry(kind=kind, path=path.relative_to(self.folder).as_posix(), test=test))

    def add_line(self, kind: str, line: str) -> None:
        """Add a line to the table KIND.txt in the record's folder."""
        path = self.folder / f"{kind}.txt"
        if not path.exists():
            self.add_evidence(kind, path)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def document(self, exit_code: int) -> dict[str, Any]:
        """Return what is to be written, with the run's exit code."""
        return {
            **self._head,
            "exit_code": int(exit_code),
            "verdict": _VERDICTS.get(ExitCode(exit_code), "bug"),
            "dmesg_warnings": self.dmesg_warnings,
            "rig_trouble": self.rig_trouble,
            "unbuildable": [{"kernel": name, "reason": reason} for name, reason in self.unbuildable.items()],
            **({} if self._pairs is None else {"pairs": self._pairs}),
            "host": None if self._host is None else self._host.to_json(),
            **{name: [entry.to_json() for entry in entries] for name, entries in self._entries.items()},
        }

    def merge(self, document: dict[str, Any]) -> None:
        """Add what another process has recorded of the same run, as its document() gave it."""
        if document["host"] is not None:
            self.set_host(HostEntry.from_json(document["host"]))
        self.dmesg_warnings += document["dmesg_warnings"]
        self.unbuildable |= {one["kernel"]: one["reason"] for one in document["unbuildable"]}
        for kind in _LISTS:
            self.add(*(kind.from_json(value) for value in document[kind.list_name]))

    def save(self, exit_code: int) -> Path:
        """Write run.json with the run's exit code and return its path."""
        document = self.document(exit_code)
        validate(document)
        path = self.folder / "run.json"
        files.replace(path, json.dumps(document, indent=1) + "\n")
        return path
