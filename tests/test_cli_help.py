"""The command's help teaches by example: each verb has some, each can be typed, and asking for help is quick."""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmtests.cli import _parser


def _verbs(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, inner in action.choices.items():
                yield from _verbs(inner, f"{name} {verb}".strip())


VERBS = dict(_verbs(_parser()))


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_can_be_typed(verb: str) -> None:
    """What stands to the right of two spaces explains it."""
    found = re.findall(r"^  (?:[A-Z_]+=\S+ )?vmtests (.+?)(?:\s{2,}.*)?$", VERBS[verb].format_help(), re.MULTILINE)
    assert found, f"vmtests {verb} --help has no example"
    for example in found:
        assert example.startswith(verb)
        _parser().parse_args(shlex.split(example))


def test_help_needs_nothing_heavy() -> None:
    """0.3 s is for an idle machine; on any, none of the packages is imported that take longer than all the rest."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vmtests.cli", "--help"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert "vmtests report" in done.stdout
    imported = set(re.findall(r"\|\s+(\S+)$", done.stderr, re.MULTILINE))
    assert "vmtests.cli.report" in imported
    assert not imported & {"numpy", "scipy", "drgn", "paramiko", "matplotlib", "jinja2", "rich", "pytest", "jsonschema"}


def test_progress_is_for_terminals(tmp_path: Path) -> None:
    """What takes long says so where somebody looks, and a log gets nothing of it."""
    ours, theirs = pty.openpty()
    for stderr in (theirs, subprocess.PIPE):
        done = subprocess.run(
            [sys.executable, "-m", "vmtests.cli", "clean"],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=300,
            check=True,
        )
        assert done.stdout.startswith(b"no guest was left")
    assert done.stderr == b""
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"looking at the cache" in shown
