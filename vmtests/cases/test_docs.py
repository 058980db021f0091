"""What README.md and docs/ tell to type and needs a guest, as it is typed, but on small namespaces.

Unit tests see to all other commands; test_boot, test_keep and test_vmcore type what opens a shell, drgn or crash.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmtests.cases.doc_commands import PAGES, ROOT, Command, commands, pytest_words
from vmtests.errors import ExitCode
from vmtests.run.run import Run

SMALL = ("--pmem-size", "1G")

#: Commands that are not repeated here, by a part of them, and why.
ELSEWHERE = {
    "--kernel-tree": "needs a tree of the reader's",
    "--kernel-image": "needs a kernel of the reader's",
    "=$HOME": "needs a tree of the reader's",
    "--tier full": "the full tier runs these tests anyway",
    "-n 2": "all tests of the tier; test_side_by_side runs two workers",
    "--keep": "test_keep and test_boot",
    "-e quick": "all tests of the tier",
    "-e full": "all tests of the tier",
    "-e lint": "no guest",
}


def _is_ours(command: Command) -> bool:
    if command.inline or any(part in command.text for part in ELSEWHERE):
        return False
    if command.program == "vmtests":
        return command.words[1:2] == ["image"] or (command.words[1:2] == ["boot"] and "--exec" in command.words)
    return command.program in ("pytest", "tox") and "-k" in pytest_words(command)


TYPED = [command for page in PAGES for command in commands(page) if _is_ours(command)]


@pytest.mark.full
@pytest.mark.skipif(not PAGES, reason="an installed vmtests has no pages")
@pytest.mark.parametrize("command", TYPED, ids=str)
def test_what_needs_a_guest_works(run: Run, command: Command, tmp_path: Path) -> None:
    base = run.kernel("base")
    # For the reader's files: kernels with these are quick to build.
    ours = {
        "0001-mine.patch": next((ROOT / "kernels/patches").rglob("0001*.patch")),
        "~/my.config": base.config,
        "kasan.config": ROOT / "kernels/fragments/crash.config",
    }
    if command.program == "vmtests":
        size = SMALL if "boot" in command.words and "--pmem-size" not in command.words else ()
        argv = [sys.executable, "-m", "vmtests.cli", *command.words[1:], *size]
    else:
        words = [str(ours.get(word, word)) for word in pytest_words(command)]
        small = [*SMALL, "--rebinds", "2", "--record", str(tmp_path / "record")]
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words, *small]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == ExitCode.PASSED, done.stdout + done.stderr
