"""How many boots a run has: until the verdict is clear, the budget ends, or boots keep dying; and how it ends then."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run_pytest
from tests.test_verdict_samples import KERNELS, _boot, _run
from vmtests import record
from vmtests.errors import ExitCode
from vmtests.host import kvm
from vmtests.record import BindEntry, ComparisonEntry, Record
from vmtests.run import pairs
from vmtests.run.options import Options
from vmtests.run.pairs import Pairs

ROOT = Path(__file__).parent.parent
CASES = str(ROOT / "vmtests" / "cases")

QUIET = [1.0, 1.001, 0.999, 1.002, 0.998, 1.0] * 2
NOISY = [1, 1.3, 0.7, 1.2, 0.9, 1.1] * 4


class Clock:
    """Goes on by as much as it is told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _drive(options: Options, binds: Sequence[BindEntry], clock: str = "wall", pair_seconds: float = 60.0) -> Pairs:
    """Ask before each boot of each pair until one is not needed."""
    now = Clock()
    plan = Pairs(options, now)
    for boot in range(40):
        for kernel in KERNELS:
            done = [
                bind for bind in binds if bind.boot < boot or (bind.boot == boot and kernel == bind.kernel == "patched")
            ]
            if not plan.needed(boot, clock, done):
                return plan
            now.seconds += pair_seconds / 2
    raise AssertionError("the run does not end")


def _times(factors: Sequence[float]) -> list[BindEntry]:
    return _run([10] * len(factors), [9 * factor for factor in factors])


@pytest.mark.parametrize(
    ("factors", "options", "begun", "says"),
    [
        (QUIET, {}, 6, "clear after 6 pairs"),
        (NOISY, {}, 20, "all 20 pairs have run"),
        (NOISY, {"boots": "3"}, 3, "all 3 pairs have run"),
        (NOISY, {"budget": 600.0}, 10, "budget ended after 10 pairs"),
        (NOISY, {"budget": 599.0}, 9, "budget ended after 9 pairs"),
        (NOISY, {"budget": 1.0}, 1, "budget ended after 1 pairs"),
        (QUIET, {"budget": 1e6}, 6, "clear after 6 pairs"),
        (QUIET, {"kernels": ("base",)}, 1, "all 1 pairs have run"),
    ],
)
def test_how_many_pairs(factors: Sequence[float], options: dict[str, Any], begun: int, says: str) -> None:
    plan = _drive(Options(**options), _times(factors))
    assert plan.begun == begun
    assert says in (plan.ended or "")


def test_one_pair_decides_under_icount() -> None:
    binds = _run([55], [50], clock="icount")
    assert _drive(Options(), binds, "icount").begun == 1
    assert _drive(Options(boots="2"), binds, "icount").begun == 2


def test_a_pair_that_was_begun_is_ended() -> None:
    """The budget ends, and the verdict is clear, while base's boot runs: patched's runs all the same."""
    now = Clock()
    plan = Pairs(Options(budget=1.0), now)
    assert plan.needed(0, "wall", [])
    now.seconds = 100
    assert plan.needed(0, "wall", [])
    assert not plan.needed(1, "wall", _boot("base", 0, 50, [10]))


def test_the_number_of_pairs_that_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, expected in ((True, 20), (None, 20), (False, 1)):
        monkeypatch.setattr(kvm, "works", lambda _, known=known: known)
        assert pairs.planned(Options()) == expected
        assert pairs.planned(Options(accel="tcg")) == 1
        assert pairs.planned(Options(clock="wall")) == 20
        assert pairs.planned(Options(clock="icount")) == 1
        assert pairs.planned(Options(rig="sealed")) == 1
        assert pairs.planned(Options(boots="4")) == 4
        assert pairs.planned_for_workers(Options()) == (6 if expected == 20 else 1)
        assert pairs.planned_for_workers(Options(boots="9")) == 9


def _whole_run(tmp_path: Path, drawn: dict[str, object], *arguments: str) -> tuple[int, str, Record]:
    """Run the rebinds with drawn guests; return exit code, output and record."""
    done = run_pytest(
        ["-p", "no:cacheprovider", "-p", "tests.fake_run", "--rootdir", str(ROOT), f"{CASES}/test_rebind.py",
         "-k", "rebind", "--rebinds", "3", "--seed", "1", "--record", str(tmp_path / "out"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "FAKE_RUN": json.dumps(drawn), "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, record.read(tmp_path / "out")


def test_boots_end_when_the_verdict_is_clear(tmp_path: Path) -> None:
    """12 boots of 40 ran; the others are counted and explained, none is skipped without a word."""
    code, output, found = _whole_run(tmp_path, {"factors": {"patched": 0.9}}, "--clock", "wall")
    assert code == ExitCode.PASSED
    assert "12 passed" in output
    assert "28 boots were not needed: the verdict is clear after 6 pairs" in output
    assert "skipped" not in output
    assert found.document["pairs"] == {"begun": 6, "ended": "the verdict is clear after 6 pairs"}
    assert [one.verdict for one in found.entries(ComparisonEntry)] == ["faster", "faster"]
    assert "not comparable with hardware" in output
    assert all(one.emulated for one in found.entries(ComparisonEntry))


def test_what_comes_after_boots_that_are_not_needed(tmp_path: Path) -> None:
    """The last boot that ran leaves its module, though the next test would have been of the same."""
    (tmp_path / "test_following.py").write_text("def test_following():\n    pass\n")
    arguments = ("--clock", "wall", "-k", "rebind or following", str(tmp_path / "test_following.py"))
    code, output, _ = _whole_run(tmp_path, {"factors": {"patched": 0.9}}, *arguments)
    assert "28 boots were not needed" in output
    assert "13 passed" in output
    assert code == ExitCode.PASSED


def test_a_boot_that_dies_inside_a_pair(tmp_path: Path) -> None:
    """Its test is red, its pair is dropped and counted, and the run goes on to a verdict on the others."""
    drawn: dict[str, object] = {"factors": {"patched": 0.9}, "dead": [["patched", 2]]}
    code, output, found = _whole_run(tmp_path, drawn, "--clock", "wall")
    assert code == ExitCode.KERNEL_FAILED
    assert "kernel patched died in boot 2" in output
    for one in found.entries(ComparisonEntry):
        assert (one.verdict, one.pairs, one.dropped_pairs) == ("faster", 5, 1)
    assert "5, 1 dropped" in output


def test_boots_that_keep_dying_end_the_run(tmp_path: Path) -> None:
    drawn: dict[str, object] = {"dead": [["patched", boot] for boot in range(20)]}
    code, output, found = _whole_run(tmp_path, drawn, "--clock", "wall")
    assert code == ExitCode.KERNEL_FAILED
    assert found.document["pairs"]["begun"] == 3
    assert "the last 3 pairs have lost a boot each" in output


@pytest.mark.parametrize(
    ("drawn", "arguments", "code"),
    [
        ({"factors": {"patched": 1.1}}, ["--max-regression", "1%"], ExitCode.KERNEL_FAILED),
        ({"factors": {"patched": 1.1}}, [], ExitCode.PASSED),
        ({"factors": {"patched": 0.9}}, ["--max-regression", "1%"], ExitCode.PASSED),
        ({"noise": 0.3}, ["--max-regression", "1%", "--boots", "6"], ExitCode.NO_VERDICT),
        ({"noise": 0.3}, ["--boots", "6"], ExitCode.PASSED),
        ({"factors": {"patched": 1.1}}, ["--max-regression", "1%", "--boots", "1"], ExitCode.NO_VERDICT),
    ],
)
def test_only_a_gate_changes_the_exit_code(
    tmp_path: Path, drawn: dict[str, object], arguments: list[str], code: ExitCode
) -> None:
    found, output, _ = _whole_run(tmp_path, drawn, "--clock", "wall", *arguments)
    assert found == code
    word = {ExitCode.PASSED: "passed", ExitCode.KERNEL_FAILED: "failed", ExitCode.NO_VERDICT: "no verdict"}[code]
    asked = "--max-regression" in arguments
    assert (f"--max-regression 1% {word}: fsdax-dev, patched against base: " in output) is asked


def test_time_on_hardware_is_not_marked(tmp_path: Path) -> None:
    _, output, found = _whole_run(tmp_path, {"accelerator": "kvm"}, "--clock", "wall", "--boots", "1")
    assert not any(one.emulated for one in found.entries(ComparisonEntry))
    assert "not comparable with hardware" not in output
    assert "too few pairs to see anything" in output


def test_a_broken_rig_is_no_verdict_on_a_kernel(tmp_path: Path) -> None:
    """Boots of one kernel that count differently are the host's failure, whatever the gate would say of the kernel."""
    broken: dict[str, object] = {"factors": {"patched": 2.0}, "wobble": 1e-4}
    code, output, found = _whole_run(tmp_path, broken, "--clock", "icount", "--boots", "2", "--max-regression", "1%")
    assert code == ExitCode.HOST_FAILED
    assert "the rig is broken: kernel base" in output
    assert found.document["rig_trouble"]
    assert {one.verdict for one in found.entries(ComparisonEntry)} == {"no-verdict"}


def test_workers_side_by_side_run_up_to_the_first_look(tmp_path: Path) -> None:
    """No worker sees the other's boots: all that were planned run, and the one verdict is on all of them."""
    code, output, found = _whole_run(tmp_path, {"factors": {"patched": 0.9}}, "--clock", "wall", "-n", "2")
    assert code == ExitCode.PASSED
    assert "12 passed" in output
    assert {(one.verdict, one.pairs, one.dropped_pairs) for one in found.entries(ComparisonEntry)} == {("faster", 6, 0)}


def test_workers_cannot_keep_a_budget(tmp_path: Path) -> None:
    done = run_pytest(["--rootdir", str(ROOT), CASES, "-n", "2", "--budget", "1m"], cwd=tmp_path, env=os.environ)
    assert done.returncode == ExitCode.USAGE
    assert "-n 2 with --budget" in done.stdout + done.stderr
