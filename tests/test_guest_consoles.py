"""Consoles of real guests, read by the code that watches a live one: every death is found, and nothing else is one."""

from __future__ import annotations

import re
import threading
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from vmtests.guest import Cause, Console, Death
from vmtests.guest.console import FATAL
from vmtests.guest.log import CappedLog

FOLDER = Path(__file__).parent / "consoles"


@dataclass(frozen=True)
class Said:
    """A console, how it came to be, and what must be made of it; consoles.toml explains the fields."""

    name: str
    kernel: str = "faults"
    append: tuple[str, ...] = ()
    script: str = ""
    cpus: int = 1
    kind: str = ""
    says: str = ""
    warnings: int = 0

    @property
    def log(self) -> Path:
        return FOLDER / f"{self.name}.log"


def table() -> list[Said]:
    """Return what the table says of each console."""
    found = tomllib.loads((FOLDER / "consoles.toml").read_text())
    return [Said(name, **{**fields, "append": tuple(fields.get("append", ()))}) for name, fields in found.items()]


@dataclass
class Reading:
    """What became of a console."""

    cause: Cause | None
    warnings: list[str]
    kept: bytes


class Serial:
    """The host's end of a serial port, which gives so many bytes at a time."""

    def __init__(self, data: bytes, chunk: int) -> None:
        self._chunks = (data[start : start + chunk] for start in range(0, len(data), chunk))

    def recv(self, _count: int, /) -> bytes:
        return next(self._chunks, b"")

    def sendall(self, _data: bytes, /) -> None:
        raise NotImplementedError

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def read(data: bytes, chunk: int, folder: Path) -> Reading:
    """Let a guest print the data, so many bytes at a time, and hang up."""
    ended, death = threading.Event(), Death()
    with CappedLog(folder / "console.log") as log:
        console = Console(Serial(data, chunk), log, death, ended.set)
        assert ended.wait(30)
        console.join(5)
    return Reading(death.cause, list(console.warnings), (folder / "console.log").read_bytes())


@pytest.mark.parametrize("chunk", [1, 7, 4099])
@pytest.mark.parametrize("said", table(), ids=lambda said: said.name)
def test_console(said: Said, chunk: int, tmp_path: Path) -> None:
    data = said.log.read_bytes()
    found = read(data, chunk, tmp_path)
    assert found.kept == data
    assert len(found.warnings) == said.warnings
    if not said.kind:
        assert found.cause is None
        return
    assert found.cause is not None
    assert found.cause.kind == said.kind
    assert re.fullmatch(said.says, found.cause.message)
    assert found.cause.by_kernel


def test_the_first_complaint_is_the_cause(tmp_path: Path) -> None:
    """An oops ends in a panic, which is not what was wrong."""
    log = (FOLDER / "null-pointer.log").read_bytes()
    assert b"Kernel panic - not syncing: Fatal exception" in log
    cause = read(log, len(log), tmp_path).cause
    assert cause is not None
    assert "NULL pointer" in cause.message


def test_every_console_is_in_the_table() -> None:
    assert {path.stem for path in FOLDER.glob("*.log")} == {said.name for said in table()}
    kinds = {said.kind for said in table() if said.kind}
    assert kinds <= {pattern.name for pattern in FATAL}
    assert len(kinds) + len({said.name for said in table() if said.warnings}) >= 8
