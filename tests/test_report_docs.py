"""What docs/report.md tells a reader to type does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.fake_report import full
from vmtests.cli import main
from vmtests.errors import ExitCode

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "report.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (vmtests .+)$", TEXT, re.MULTILINE)


def test_every_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(tmp_path / "runs" / "monday")
    full(tmp_path / "runs" / "tuesday", kernels=(("base", 55.27), ("patched", 13.2)))
    full(tmp_path / "runs" / "counts")
    full(tmp_path / "runs" / "times", clock="wall", pairs=6, kernels=(("base", 273.0), ("patched", 104.0)))
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        assert main(shlex.split(command)[1:]) == ExitCode.PASSED, command
    assert (tmp_path / "page.html").exists()


def test_its_pictures_are_there_and_small() -> None:
    pictures = [DOCS / name for name in re.findall(r"!\[.+\]\((.+)\)", TEXT)]
    assert len(pictures) == 2
    assert all(0 < picture.stat().st_size < 200_000 for picture in pictures)
