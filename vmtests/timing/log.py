"""A file of JSON lines that is only ever appended to, by several processes, any of which may be killed.

Every line is one object. Lines are written by one write() at the end of the file, under a lock. A process that is
killed in it leaves a cut line, which has no end of line: the next one to write begins a new line, and a reader skips
the cut one, says which it is, and keeps the rest.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtests import cache
from vmtests.errors import HostFailure, UsageError

#: Rises when a known field of a line changes its meaning.
SCHEMA = 1


@dataclass(frozen=True)
class Line:
    """An object and where it stands, "FILE, line 3"."""

    where: str
    value: dict[str, Any]


@dataclass(frozen=True)
class Log:
    """The file and its lock, which lies beside it."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from reading and writing; what is read and then written belongs in one such block."""
        with cache.locked(self.path.with_name(f".{self.path.name}.lock"), seconds=60):
            yield

    def read(self) -> tuple[list[Line], list[str]]:
        """Return the lines and, for each that is damaged, what is wrong with it.

        Raises:
            UsageError: a line is of a newer schema.
        """
        lines, damaged = [], []
        for number, text in enumerate(_split(self.path), start=1):
            where = f"{self.path}, line {number}"
            try:
                value = json.loads(text)
            except ValueError:
                damaged.append(f"{where}: cut off or damaged, skipped ({len(text)} bytes)")
                continue
            if not isinstance(value, dict) or not isinstance(value.get("schema"), int):
                damaged.append(f"{where}: not a line of a history, skipped")
            elif value["schema"] > SCHEMA:
                raise UsageError(
                    f"{where} has schema {value['schema']}, this vmtests reads up to {SCHEMA}: use a newer one"
                )
            else:
                lines.append(Line(where, value))
        return lines, damaged

    def append(self, values: Sequence[dict[str, Any]]) -> None:
        """Append lines; all of them or, when the disk is full, none.

        Raises:
            HostFailure: they cannot be written.
        """
        text = "".join(json.dumps({"schema": SCHEMA, **value}, separators=(",", ":")) + "\n" for value in values)
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                _append(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HostFailure(f"{self.path} cannot be written ({error.strerror}): nothing was added") from error


def _split(path: Path) -> list[bytes]:
    texts = path.read_bytes().split(b"\n") if path.exists() else []
    return texts[:-1] if texts and not texts[-1] else texts


def _append(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data = b"\n" + data
    written = os.write(descriptor, data)
    if written != len(data):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)
