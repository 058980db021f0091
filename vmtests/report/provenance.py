"""Where the figures of a record come from, and how to get them again."""

from __future__ import annotations

import csv
import datetime
import io
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from vmtests.kernel.config import values
from vmtests.record import BindEntry, EvidenceEntry, KernelEntry, Record

#: How much of a file of evidence is shown.
_EXCERPT = 6000


def again(record: Record) -> str:
    """Return the command that does the same run again: the same seed, and a record of its own."""
    argv = [str(word) for word in record.document["argv"]]
    program, arguments = argv[:1], argv[1:]
    if program and program[0].endswith("pytest/__main__.py"):
        program = ["python3", "-m", "pytest"]
    elif program:
        program = [Path(program[0]).name]
    kept = []
    words = iter(arguments)
    for word in words:
        if word in ("--record", "--seed"):
            next(words, None)
        elif not word.startswith(("--record=", "--seed=")):
            kept.append(word)
    return shlex.join([*program, *kept, "--seed", str(record.document["seed"])])


def started(record: Record) -> str:
    """Return when the run began, in UTC, for people."""
    text = str(record.document["started"])
    try:
        moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def samples(record: Record) -> str:
    """Return all binds as CSV, in the order they ran. `duration_ns` is a count of instructions under icount."""
    sink = io.StringIO()
    names = [field.name for field in fields(BindEntry)]
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(bind, name) for name in names] for bind in record.entries(BindEntry))
    return sink.getvalue()


def configs(record: Record) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each kernel that has another config than the first, with the options that differ, where both are kept."""
    names = [kernel.name for kernel in record.entries(KernelEntry)]
    kept = {entry.path for entry in record.entries(EvidenceEntry) if entry.kind == "config"}
    there = [name for name in names if f"{name}.config" in kept and (record.folder / f"{name}.config").is_file()]
    if not there or there[0] != names[0]:
        return
    first, *others = ((name, values(record.folder / f"{name}.config")) for name in there)
    for name, mine in others:
        differing = sorted(key for key in mine.keys() | first[1].keys() if mine.get(key) != first[1].get(key))
        if differing:
            yield name, tuple(f"{key}: {first[1].get(key, 'n')} -> {mine.get(key, 'n')}" for key in differing)


def excerpts(record: Record) -> Iterator[tuple[str, str]]:
    """Yield name and beginning of each file that says what failed, as far as it is still there."""
    root = record.folder.resolve()
    for entry in dict.fromkeys(record.entries(EvidenceEntry)):
        if entry.kind not in ("failure", "kernel-bug"):
            continue
        path = (root / entry.path).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_EXCERPT + 1)
        more = f"\n[cut: {entry.path} has {path.stat().st_size:,} bytes]" if len(text) > _EXCERPT else ""
        yield entry.path, text[:_EXCERPT] + more
