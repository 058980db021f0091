"""What docs/your-patch.md tells a reader to type can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from _pytest.config import get_config

from vmtests import plugin
from vmtests.cli import _parser

TEXT = (Path(__file__).parent.parent / "docs/your-patch.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    ((?:vmtests|pytest) .+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_typed(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "vmtests":
        _parser().parse_args(arguments)
        return
    config = get_config(plugins=[])
    plugin.pytest_addoption(config._parser)
    _, unknown = config._parser.parse_known_and_unknown_args(arguments)
    assert not [word for word in unknown if word.startswith("-")]


def test_there_are_some_of_each() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"vmtests", "pytest"}
    assert len(COMMANDS) > 10
