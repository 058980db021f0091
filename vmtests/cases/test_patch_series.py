"""A series of patches, as its author tests it: a kernel and a row for each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmtests import record
from vmtests.cases.history_repo import History
from vmtests.errors import ExitCode
from vmtests.record import ComparisonEntry
from vmtests.report import series
from vmtests.run.run import Run


@pytest.mark.full
def test_a_row_for_each_patch(run: Run, history: History, tmp_path: Path) -> None:
    """One counts more, one does not build, which is a verdict on it alone, and the last is wrong."""
    begin, end = history.commits[0], history.commits[5]
    asked = ["--series", f"{begin}..{end}", "--kernel-tree", str(history.folder), "--record", str(tmp_path / "record")]
    small = ["--pmem-size", "1G", "--rebinds", "2", "--boots", "1", "--clock", "icount", "--dump", "never"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(Path(__file__).with_name("test_rebind.py")), *asked, *small],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    run.progress.say(done.stdout)
    assert done.returncode == ExitCode.KERNEL_FAILED, done.stderr
    found = record.read(tmp_path / "record")
    rows = {row.place: row for row in series.rows(found)}
    assert [row.builds for row in rows.values()] == ["yes", "yes", "no", "yes", "yes"]
    assert "patch 3/5 (mm: half of a change) does not build: building kernel series-3 failed" in done.stdout
    assert [row.memmap for row in rows.values()] == [*["right in 3 checks"] * 2, "-", "right in 3 checks", "1 wrong"]
    verdicts = {one.patched: one.verdict for one in found.entries(ComparisonEntry) if one.metric == "rebind"}
    assert verdicts == {"series-1": "same", "series-2": "slower", "series-4": "slower"}
    said = " ".join(done.stdout.split())  # a long subject is folded
    for row in rows.values():
        assert row.subject in said
