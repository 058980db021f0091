"""One alert for each change: new in the night that meets it, known from then on, fixed once when it is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nightly_rig import Rig
from vmtests.errors import ExitCode
from vmtests.nightly import alerts, findings, memory
from vmtests.nightly.alerts import FIXED, KNOWN, NEW
from vmtests.nightly.findings import Finding
from vmtests.nightly.matrix import Cell
from vmtests.nightly.outcome import DOES_NOT_BUILD, KERNEL_FAILED, LOST, PASSED, Outcome
from vmtests.timing.log import Log

FINDING = Finding("mine memmap _refcount", "memmap", "mine", "mine: wrong", ("a line",), "old", "new", "pytest")
States = list[tuple[str, str]]
Judge = Callable[..., States]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Return what judges a night by its name, its findings, and whether what it has not met is over."""
    log = memory.log(tmp_path)

    def states(night: str, *found: Finding, over: bool = True) -> States:
        return [(one.finding.key, one.state) for one in alerts.judge(log, night, found, lambda _: over)]

    return states


def test_new_known_fixed_and_new_again(judge: Judge) -> None:
    assert judge("1") == []
    assert judge("2", FINDING) == [(FINDING.key, NEW)]
    assert judge("3", FINDING) == [(FINDING.key, KNOWN)]
    assert judge("4") == [(FINDING.key, FIXED)]
    assert judge("5") == []
    assert judge("6", FINDING) == [(FINDING.key, NEW)]


def test_a_night_that_tells_twice(judge: Judge) -> None:
    """It was killed after it had noted what it tells: the same again, and for later nights once."""
    assert judge("1", FINDING) == judge("1", FINDING) == [(FINDING.key, NEW)]
    assert judge("2", FINDING) == [(FINDING.key, KNOWN)]
    assert judge("3") == judge("3") == [(FINDING.key, FIXED)]
    assert judge("4") == []


def test_what_could_not_be_met_is_not_over(judge: Judge) -> None:
    judge("1", FINDING)
    assert judge("2", over=False) == [(FINDING.key, KNOWN)]
    assert judge("3") == [(FINDING.key, FIXED)]


def test_a_known_one_keeps_its_range(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    alerts.judge(log, "1", [FINDING], lambda _: True)
    later = Finding(**{**FINDING.to_json(), "lines": (), "before": "new", "after": "newer"})
    [known] = alerts.judge(log, "2", [later], lambda _: True)
    assert (known.finding.before, known.finding.after, known.since) == ("old", "new", "1")


def test_a_damaged_line_is_told_again_rather_than_never(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.append([{"kind": "alert", "night": "1", "state": NEW, "finding": {"key": FINDING.key}}])
    [alert] = alerts.judge(log, "2", [FINDING], lambda _: True)
    assert alert.state == NEW


def cell(name: str, tree: str = "mine") -> Cell:
    return Cell(name, tree, "base", tree, "/tree", "c0ffee", (), f"pytest {name}")


def test_one_finding_for_one_cause() -> None:
    """Two cells, one field: one finding. Another tree, and another kind of failure: theirs. A lost cell: none."""
    wrong = ("mine bind 0: 3 fields of struct pages wrong; _refcount at pfn 0x1000",)
    other = ("mine bind 3: 4,711 fields of struct pages wrong; _refcount at pfn 0x9000",)
    outcomes = {
        "a": Outcome("a", KERNEL_FAILED, "memmap", wrong),
        "b": Outcome("b", KERNEL_FAILED, "memmap", other),
        "c": Outcome("c", DOES_NOT_BUILD, "build", ("mm/x.c:7: error: 'y'",)),
        "d": Outcome("d", LOST),
        "e": Outcome("e", PASSED),
        "f": Outcome("f", KERNEL_FAILED, "dmesg", ("[   1.234] WARNING: CPU: 0 PID: 17 at mm/x.c:7",)),
    }
    cells = [cell("a"), cell("b"), cell("c", "yours"), cell("d"), cell("e"), cell("f")]
    found = {finding.kind: finding for finding in findings.failures(cells, outcomes, {"mine": "good"})}
    assert found.keys() == {"memmap", "build", "dmesg"}
    assert found["memmap"].key == "mine memmap _refcount"
    assert found["memmap"].title == "mine: struct pages are wrong (a b)"
    assert (found["memmap"].before, found["build"].before) == ("good", None)
    again = Outcome("f", KERNEL_FAILED, "dmesg", ("[   9.876] WARNING: CPU: 1 PID: 42 at mm/x.c:7",))
    [later] = findings.failures([cell("f")], {"f": again}, {})
    assert later.key == found["dmesg"].key


def test_a_change_of_the_count(tmp_path: Path) -> None:
    """Two kinds of namespace and two metrics tell one alert; nights of it, and the night that undoes it."""
    rig = Rig.make(tmp_path, ("fsdax", "dev"), ("devdax", "dev"))
    begin = rig.commit("begin", factor=1.0)
    assert rig.night()[0] == 0

    slow = rig.commit("mm: count more", factor=1.045)
    code, out = rig.night()
    assert code == ExitCode.KERNEL_FAILED
    assert "red, 2 of 2 cells passed; 1 new, 0 known, 0 fixed\n" in out
    assert "NEW mine: " in out
    assert out.count(": more, +4.50 %, ") == 5, "the title, and a line for each series"
    assert f"  between: {begin}\n  and:     {slow}\n    {slow[:12]} mm: count more\n" in out
    again = f"    pytest vmtests/ -k rebind --kernel before={rig.tree}@{begin} --kernel mine={rig.tree}@{slow} --mode"
    assert again in out
    mail = (rig.last / "mail.txt").read_text()
    assert mail.startswith(f"Subject: [vmtests] nightly {rig.last.name}: red: mine: ")
    assert mail.endswith(out)

    code, out = rig.night()
    assert code == 0
    assert "green, 2 of 2 cells passed; 0 new, 1 known, 0 fixed\n\nknown since" in out

    rig.commit("Revert that", factor=1.0)
    code, out = rig.night()
    assert code == 0
    assert "0 new, 0 known, 1 fixed" in out
