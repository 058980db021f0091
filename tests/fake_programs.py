"""Programs that stand in for the host's own: shell scripts in a folder that is all of the PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

#: What the scripts themselves, and the code under test, need of a real system.
_REAL = ("/usr/bin/env", "/usr/bin/setpriv", "/bin/sleep")


class FakePrograms:
    """The folder, and what was called.

    Each script runs with the variable `log` naming a file of its own, and appends its arguments to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for program in _REAL:
            (folder / Path(program).name).symlink_to(program)

    def add(self, name: str, script: str = "") -> Path:
        """Add a program, or replace it."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\nlog={self.folder}/{name}.log\necho "$*" >>"$log"\n{script}\n')
        path.chmod(0o755)
        return path

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call so far."""
        log = self.folder / f"{name}.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    fakes = FakePrograms(tmp_path / "programs")
    monkeypatch.setenv("PATH", str(fakes.folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fakes
