from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest

from tests import fake_judge, fake_kernel
from vmtests import cli
from vmtests.bisect import search
from vmtests.bisect.plan import Measure, Measured, Plan, State
from vmtests.errors import ExitCode, HostFailure, UsageError
from vmtests.report.progress import Progress

JUDGE = (sys.executable, "-m", "tests.fake_judge")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the judge, a process of its own, find the tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "my tree").mkdir()
    return tmp_path / "my tree"


def history(tree: Path, values: Sequence[object]) -> list[str]:
    """Commit each value; return the commits."""
    commits = []
    for number, value in enumerate(values):
        (tree / "value").write_text(f"{value}\n")
        (tree / "number").write_text(f"{number}\n")
        commits.append(fake_kernel.commit(tree))
    return commits


def everything(folder: Path) -> dict[str, tuple[int, str]]:
    """Return time and content of all that is in the folder, git's own files too."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


def find(
    tree: Path,
    commits: Sequence[str],
    metric: str = "memmap",
    *,
    to: str = "record",
    measure: Measure = fake_judge.measure,
) -> search.Found:
    """Search; both the search and its judge measure what a file of the commit says."""
    plan = Plan(tree=str(tree), good=commits[0], bad=commits[-1], metric=metric)
    return search.search(plan, tree.parent / to, Progress(StringIO()), measure=measure, judge=JUDGE)


def replayed(tree: Path, log: Path) -> str:
    """Return what `git bisect replay` makes of a log, in a clone."""
    clone = tree.parent / "clone"
    fake_kernel.git(tree, "clone", "--quiet", str(tree), str(clone))
    fake_kernel.git(clone, "bisect", "replay", str(log))
    return fake_kernel.git(clone, "rev-parse", "refs/bisect/bad")


@pytest.mark.parametrize("first", [1, 4, 7])
def test_the_first_bad_commit(tree: Path, first: int) -> None:
    commits = history(tree, [0] * first + [12345] * (8 - first))
    before = everything(tree)
    found = find(tree, commits)
    assert everything(tree) == before
    assert found.step.commit == commits[first]
    assert [parent.commit for parent in found.parents] == [commits[first - 1]]
    state = State.load(tree.parent / "record")
    assert [step.role for step in state.steps][:2] == ["good", "bad"]
    assert [step.role for step in state.steps][-2:] == ["found", "parent"]
    assert len(state.seen(["step"])) == 3 or first in (1, 7)
    assert not (state.folder / "clone").exists()
    assert all((state.folder / step.record).is_dir() for step in state.steps)
    log = state.log.read_text()
    assert f"# step: {commits[first][:12]} all: 12,345 wrong: bad" in log or first == 7
    assert replayed(tree, state.log) == commits[first]


def test_counts_are_halved_between_the_ends(tree: Path) -> None:
    """What lies between is judged by the nearer end; fewer can be what is looked for."""
    commits = history(tree, [55.3, 55.2, 56.0, 40.0, 30.0, 13.2, 13.2])
    assert find(tree, commits, "instructions").step.commit == commits[4]
    assert find(tree, list(commits[:4]), "instructions", to="other").step.commit == commits[3]
    log = (tree.parent / "record/bisect.log").read_text()
    assert "# good is more than 34.25 instructions/page" in log


def test_one_wrong_page_is_a_wrong_memmap(tree: Path) -> None:
    commits = history(tree, [0, 0, 1, 1, 12345, 12345])
    assert find(tree, commits).step.commit == commits[2]
    assert "# bad is more than 0 wrong\n" in (tree.parent / "record/bisect.log").read_text()


def test_neighbours_need_no_step(tree: Path) -> None:
    commits = history(tree, [0, 1])
    found = find(tree, commits)
    assert found.step.commit == commits[1]
    assert replayed(tree, tree.parent / "record/bisect.log") == commits[1]


def test_what_cannot_be_tested_is_passed_over(tree: Path) -> None:
    commits = history(tree, [0, 0, 0, 0, 0, "none", 0, 0, 7, 7, 7])
    assert find(tree, commits).step.commit == commits[8]
    log = (tree.parent / "record/bisect.log").read_text()
    assert ": it does not build: cannot-test" in log
    assert "git bisect skip" in log


@pytest.mark.parametrize(
    ("values", "metric", "message"),
    [
        ([0, 0, 0], "memmap", "the memmap of the bad end is right too"),
        ([1, 0, 1], "memmap", "the memmap of the good end is wrong too"),
        ([0, 0, "none"], "memmap", "the bad end cannot be tested.*it does not build"),
        ([55.0, 55.0, 55.01], "instructions", r"same \(good 55.00 instructions/page, bad 55.01 instructions/page\)"),
        ([0, "none", 1], "memmap", "one of several that cannot be tested"),
    ],
)
def test_no_verdict(tree: Path, values: list[object], metric: str, message: str) -> None:
    commits = history(tree, values)
    with pytest.raises(search.NoVerdict, match=message) as failure:
        find(tree, commits, metric)
    assert failure.value.exit_code == ExitCode.NO_VERDICT
    assert not (tree.parent / "record/clone").exists()


def test_a_find_that_is_not_reproduced(tree: Path) -> None:
    commits = history(tree, [0, 0, 7, 7])

    def once(plan: Plan, commit: str, folder: Path, progress: Progress) -> Measured:
        seen = fake_judge.measure(plan, commit, folder, progress)
        return Measured(0.0, seen.unit, "", seen.binds, 1.0) if "found" in folder.name else seen

    with pytest.raises(search.NoVerdict, match=f"ends at {commits[2][:12]}, which is not reproduced"):
        find(tree, commits, measure=once)


def test_a_host_that_cannot_tell_ends_it(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    commits = history(tree, [0, 0, "host", 7, 7])
    with pytest.raises(HostFailure, match="a commit could not be judged") as failure:
        find(tree, commits)
    assert failure.value.exit_code == ExitCode.HOST_FAILED
    assert "vmtests: the disk is full" in capfd.readouterr().err


def waiting(tree: Path) -> subprocess.Popen[bytes]:
    """Start a search that hangs in its judge, and return it when it does."""
    commits = history(tree, [0, "wait", 7])
    program = (
        "import sys; from pathlib import Path; from tests import test_bisect as t;"
        "t.find(Path(sys.argv[1]), sys.argv[2:])"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tree, *commits], cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 60
    while not (tree.parent / "waits").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tree.parent / "waits").exists()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_judge_goes_with_the_search(tree: Path, number: signal.Signals) -> None:
    process = waiting(tree)
    os.kill(process.pid, number)
    process.wait(60)
    deadline = time.monotonic() + 60
    while not (tree.parent / "left").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tree.parent / "left").exists()
    if number == signal.SIGINT:
        assert not (tree.parent / "record/clone").exists()


def test_what_cannot_be_meant(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = history(tree, [0, 1])
    for arguments, message in (
        (["--good", "nowhere", "--bad", last], "--good nowhere:"),
        (["--good", first, "--bad", "nowhere"], "has no such revision: see `git -C "),
        (["--good", last, "--bad", first], "is no ancestor of --bad"),
        (["--good", first, "--bad", first], "are the same commit"),
        (["--good", first, "--bad", last, "--align", "3M"], "3"),
        (["--good", first, "--bad", last, "--rebinds", "0"], "--rebinds 0"),
    ):
        assert cli.main(["bisect", "--kernel-tree", str(tree), *arguments]) == ExitCode.USAGE
        assert message in capsys.readouterr().err
    assert cli.main(["bisect", "--kernel-tree", str(tmp_path), "--good", "a", "--bad", "b"]) == ExitCode.USAGE
    assert "is no git repository" in capsys.readouterr().err
    find(tree, [first, last])
    with pytest.raises(UsageError, match="holds the record of a search already"):
        find(tree, [first, last])


def test_the_record_is_json(tree: Path) -> None:
    commits = history(tree, [0, 0, 1])
    find(tree, commits)
    said = json.loads((tree.parent / "record/bisect.json").read_text())
    assert said["found"] == commits[2]
    assert said["plan"]["metric"] == "memmap"
    assert [step["verdict"] for step in said["steps"]] == ["", "", "good", "bad", "good"]
