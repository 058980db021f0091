"""What became of a cell, by its record: the kernel's fault, the host's, or nobody's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import fake_record
from vmtests.nightly import outcome
from vmtests.nightly.gate import gate
from vmtests.nightly.outcome import (
    BUG,
    DOES_NOT_BUILD,
    HOST_FAILED,
    KERNEL_FAILED,
    LOST,
    NO_VERDICT,
    PASSED,
    Ignored,
    Outcome,
)


def judged(folder: Path, status: int | None = 0, *ignored: Ignored, **fields: object) -> Outcome:
    """Return the outcome of a record with other fields than one that has passed."""
    fake_record.record(folder, {"base": [10.0], "mine": [10.0]}, clock="icount", wrong=["base", "mine"])
    path = folder / "run.json"
    document = json.loads(path.read_text())
    if not fields.pop("wrong", False):
        for check in document["memmaps"]:
            check["mismatches"] = 0
    for name, count in fields.pop("cut", {}).items():  # type: ignore[attr-defined]
        document[name] = document[name][:count]
    path.write_text(json.dumps(document | fields))
    return outcome.judge("cell", "mine", folder, status, ignored, 1.0)


def test_passed(tmp_path: Path) -> None:
    found = judged(tmp_path)
    assert (found.verdict, found.reasons, found.final) == (PASSED, (), True)


def test_wrong_pages(tmp_path: Path) -> None:
    found = judged(tmp_path, 1, wrong=True, verdict="kernel-failed", exit_code=1)
    assert (found.verdict, found.kind, found.final) == (KERNEL_FAILED, "memmap", True)
    assert found.reasons[1] == "mine bind 1: 1 fields of struct pages wrong"


def test_a_dead_kernel(tmp_path: Path) -> None:
    text = "test_rebind.py::test_rebind[mine-fsdax-dev]\nKernelFailure: mine panicked\n  it ended with:\n\n"
    (tmp_path / "failures.txt").write_text(text)
    found = judged(tmp_path, 1, verdict="kernel-failed", exit_code=1)
    assert (found.verdict, found.kind) == (KERNEL_FAILED, "kernel")
    assert found.reasons == ("test_rebind.py::test_rebind[mine-fsdax-dev] KernelFailure: mine panicked",)


@pytest.mark.parametrize(
    "line",
    [
        "mine: WARNING: CPU: 0 PID: 1 at mm/mm_init.c:1000",
        "mine: WARNING: possible recursive locking detected",
        "mine: rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    ],
)
def test_dmesg(tmp_path: Path, line: str) -> None:
    found = judged(tmp_path / "a", dmesg_warnings=[line])
    assert (found.verdict, found.kind, found.reasons) == (KERNEL_FAILED, "dmesg", (line,))
    ignored = Ignored(r"mm_init|locking|rcu_\w+ detected", "known upstream")
    assert judged(tmp_path / "b", 0, ignored, dmesg_warnings=[line]).verdict == PASSED


def test_a_tree_that_does_not_build(tmp_path: Path) -> None:
    """But where the reference does not build either, the host is to blame."""
    mine, base = ({"kernel": name, "reason": "error: x"} for name in ("mine", "base"))
    found = judged(tmp_path / "a", 3, verdict="host-failed", exit_code=3, unbuildable=[mine])
    assert (found.verdict, found.kind, found.final) == (DOES_NOT_BUILD, "build", True)
    found = judged(tmp_path / "b", 3, verdict="host-failed", exit_code=3, unbuildable=[base, mine])
    assert (found.verdict, found.final) == (HOST_FAILED, False)


@pytest.mark.parametrize(
    ("status", "fields", "verdict"),
    [
        (3, {"verdict": "host-failed", "exit_code": 3}, HOST_FAILED),
        (4, {"verdict": "bug", "exit_code": 4}, BUG),
        (5, {"verdict": "no-verdict", "exit_code": 5}, NO_VERDICT),
        (-9, {}, HOST_FAILED),
        (None, {}, HOST_FAILED),
        (0, {"rig_trouble": ["boots differ"]}, HOST_FAILED),
    ],
)
def test_no_fault_of_the_kernel(tmp_path: Path, status: int | None, fields: dict[str, object], verdict: str) -> None:
    found = judged(tmp_path, status, **fields)
    assert found.verdict == verdict
    assert found.reasons


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        ({"binds": 7}, "the kernels have not as many binds: {'base': 4, 'mine': 3}"),
        ({"memmaps": 1}, "the kernels have not as many memmap checks: {'base': 1, 'mine': 0}"),
        ({"memmaps": 0}, "the kernels have not as many memmap checks: {'base': 0, 'mine': 0}"),
        ({"kernels": 1}, "the kernels have not as many binds: {'base': 4}"),
    ],
)
def test_a_record_that_is_not_whole(tmp_path: Path, cut: dict[str, int], reason: str) -> None:
    """It says that it has passed, and cannot have."""
    found = judged(tmp_path, cut=cut)
    assert (found.verdict, found.reasons[0]) == (HOST_FAILED, reason)


def test_no_record(tmp_path: Path) -> None:
    found = outcome.judge("cell", "mine", tmp_path, 0, (), 1.0)
    assert found.verdict == HOST_FAILED
    assert "exit status 0 and no record" in found.reasons[0]


def test_an_outcome_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / outcome.NAME
    path.write_text(json.dumps(Outcome("cell", PASSED).to_json()))
    assert outcome.read(tmp_path) == Outcome("cell", PASSED)
    path.write_text(path.read_text()[:-5])
    assert outcome.read(tmp_path) is None


@pytest.mark.parametrize(
    ("verdicts", "expected", "code"),
    [
        ([PASSED, PASSED], 2, 0),
        ([PASSED, PASSED], 3, 3),
        ([], 1, 3),
        ([PASSED, LOST], 2, 3),
        ([PASSED, KERNEL_FAILED], 2, 1),
        ([HOST_FAILED, KERNEL_FAILED], 2, 3),
        ([BUG, HOST_FAILED], 2, 4),
        ([NO_VERDICT, PASSED], 2, 5),
    ],
)
def test_the_gate(verdicts: list[str], expected: int, code: int) -> None:
    outcomes = {str(number): Outcome(str(number), verdict) for number, verdict in enumerate(verdicts)}
    found = gate(outcomes, {}, expected)
    assert found.exit_code == code
    assert found.open is (code == 0)
    assert str(found).startswith(f"{verdicts.count(PASSED)} of {expected} cells passed")
