"""The files that ship beside the nightly: its matrices, the workflow and what it runs, the units of systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmtests.errors import ExitCode, UsageError
from vmtests.nightly import config, matrix
from vmtests.nightly.trees import Resolved

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github/workflows/nightly.yml"


@pytest.mark.parametrize("name", ["nightly.toml", "full-matrix.toml"])
def test_the_matrices_that_ship(name: str) -> None:
    found = config.read(ROOT / "nightly" / name)
    resolved: dict[str, Resolved | str] = {
        tree.name: Resolved(tree.name, tree.name) for tree in (found.reference, *found.trees)
    }
    cells = matrix.cells(found, resolved)
    assert len(cells) == len({cell.name for cell in cells}) == 4 * len(found.trees)
    # The tests take what each cell asks: they are collected, and no guest is booted.
    argv = [word.replace("{record}", "record") for word in cells[-1].argv]
    done = subprocess.run([*argv, "--collect-only", "-q"], capture_output=True, text=True, timeout=120, check=False)
    assert "2/4 tests collected (2 deselected)" in done.stdout, done.stdout + done.stderr


def test_a_cell_is_one_command(tmp_path: Path) -> None:
    """What an alert tells a person to type has the commits in it, not the refs."""
    found = config.read(ROOT / "nightly/nightly.toml")
    resolved: dict[str, Resolved | str] = {
        "base": Resolved("base", ""),
        "patched": "it is gone",
        "mainline": Resolved("mainline", "", tmp_path, "c0ffee"),
    }
    first, *_, last = matrix.cells(found, resolved)
    assert first.reproduce == (
        f"pytest vmtests/ -k rebind --kernel base --kernel mainline={tmp_path}@c0ffee --mode fsdax --map dev "
        "--align 2M --pmem-size 100G --clock icount --accel auto --rebinds 30 --boots auto"
    )
    assert last.trouble == "it is gone"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("retries = 1", "retires = 1", "'retires' was unexpected"),
        ('deadline = "10h"', 'deadline = "soon"', "deadline = soon: write a time"),
        ('mode = "fsdax"', 'mode = "raw"', "namespace.0.mode: 'raw' is not one of"),
        ('name = "patched"', 'name = "base"', "base is there twice"),
        ('ref = "master"\n', "", "tree.0: .* is not valid under any of the given schemas"),
        ("# [[ignore]]", '[[ignore]]\nline = "("\nreason = "long enough"', "is no regular expression"),
        ("# [[ignore]]", '[[ignore]]\nline = "x"\nreason = "so"', "ignore.0.reason: 'so' is too short"),
    ],
)
def test_a_matrix_that_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / "nightly/nightly.toml").read_text()
    assert old in text
    path = tmp_path / "nightly.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=message):
        config.read(path)


def test_the_workflow_is_valid() -> None:
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_workflow_runs() -> None:
    """Its steps are those of nightly/ci, in its order; vmtests/cases/test_nightly.py runs them in a fresh clone."""
    steps = re.findall(r"^ +(?:- )?run: (.*)", WORKFLOW.read_text(), re.MULTILINE)
    script = ROOT / "nightly/ci"
    known = re.findall(r"^(\w+)\)$", script.read_text(), re.MULTILINE)
    assert steps[1:] == [f"nightly/ci {name}" for name in known]
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    refused = subprocess.run([script], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (2, "usage: nightly/ci install|night|tell\n")
    assert "apt-get install" in steps[0]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_the_units_of_systemd(tmp_path: Path) -> None:
    """They are valid once they stand where they belong; here %h is a folder with the program that they start."""
    program = tmp_path / "vmtests/.venv/bin/python"
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    for path in (ROOT / "nightly").glob("vmtests-nightly.*"):
        (tmp_path / path.name).write_text(path.read_text().replace("%h", str(tmp_path)))
    units = sorted(tmp_path.glob("vmtests-nightly.*"))
    assert len(units) == 2
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not [line for line in done.stderr.splitlines() if "vmtests-nightly" in line], done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], [], ["nowhere.toml", "--results", "results"]])
def test_the_command(tmp_path: Path, arguments: list[str]) -> None:
    """As it is typed in a checkout, and where it has gone wrong before anything ran."""
    done = subprocess.run(
        [sys.executable, ROOT / "nightly/job.py", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == (0 if arguments == ["--help"] else ExitCode.USAGE)
    assert not list(tmp_path.iterdir())
    if arguments[:1] == ["nowhere.toml"]:
        assert done.stderr.startswith("nightly: nowhere.toml cannot be read")
