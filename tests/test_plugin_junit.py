"""JUnit's file has the figures: those of each test in its testcase, those of the verdicts in its testsuite."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.forked import run_pytest
from vmtests import record
from vmtests.record import BindEntry, ComparisonEntry, Record

ROOT = Path(__file__).parent.parent

Figures = dict[str, str]


def _ran(tmp_path: Path, asked: dict[str, Any], *arguments: str) -> tuple[Record, dict[str, Figures], Figures]:
    """Run the procedure on drawn guests; return its record, the properties of the tests and those of the suite."""
    out = tmp_path / "out"
    command = ["-p", "no:cacheprovider", "-p", "tests.fake_run", "--rootdir", str(ROOT)]
    command += [str(ROOT / "vmtests" / "cases" / "test_rebind.py"), "--record", str(out), "--seed", "7", *arguments]
    done = run_pytest(
        [*command, "--junitxml", str(tmp_path / "out.xml")],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "FAKE_RUN": json.dumps(asked)},
    )
    assert (tmp_path / "out.xml").exists(), done.stdout + done.stderr
    root = ElementTree.parse(tmp_path / "out.xml").getroot()

    def figures(element: ElementTree.Element) -> Figures:
        return {one.attrib["name"]: one.attrib["value"] for one in element.findall("properties/property")}

    (suite,) = root.iter("testsuite")
    return record.read(out), {case.attrib["name"]: figures(case) for case in root.iter("testcase")}, figures(suite)


def test_each_test_and_the_verdict_have_their_figures(tmp_path: Path) -> None:
    run, tests, suite = _ran(
        tmp_path, {"factors": {"patched": 0.5}}, "--clock", "wall", "--boots", "6", "--rebinds", "3"
    )
    mine = tests["test_rebind[patched-fsdax-dev-boot5]"]
    assert mine["patched.fsdax-dev.boot5.clock"] == "wall"
    assert mine["patched.fsdax-dev.boot5.rebinds.count"] == "3"
    (first,) = [bind for bind in run.entries(BindEntry) if (bind.kernel, bind.boot, bind.index) == ("patched", 5, 0)]
    assert float(mine["patched.fsdax-dev.boot5.first.ms"]) == pytest.approx(first.duration_ns / 1e6)
    assert not any(".boot4." in name or name.startswith("base") for name in mine)
    (rebind,) = [one for one in run.entries(ComparisonEntry) if one.metric == "rebind"]
    name = "patched-against-base.fsdax-dev.rebind"
    assert suite[f"{name}.verdict"] == "faster"
    assert [float(suite[f"{name}.{part}"]) for part in ("ratio", "ci_low", "ci_high")] == [
        rebind.ratio,
        rebind.ci_low,
        rebind.ci_high,
    ]


def test_a_count_is_not_called_faster_and_a_red_test_has_its_figures_too(tmp_path: Path) -> None:
    asked = {"factors": {"patched": 0.5}, "dead": [["patched", 1]]}
    run, tests, suite = _ran(tmp_path, asked, "--clock", "icount", "--boots", "2", "--rebinds", "3")
    assert "patched.fsdax-dev.boot1.first.instructions_per_page" in tests["test_rebind[patched-fsdax-dev-boot1]"]
    assert suite["patched-against-base.fsdax-dev.rebind.verdict"] == "fewer"
    assert suite["patched-against-base.fsdax-dev.rebind.dropped_pairs"] == "1"
    assert len(run.entries(ComparisonEntry)) == 2, "compared for JUnit and for the record, noted once"


def test_a_broken_rig_is_told_once(tmp_path: Path) -> None:
    run, _, _ = _ran(tmp_path, {"wobble": 0.01}, "--clock", "icount", "--boots", "2", "--rebinds", "3")
    assert len(run.rig_trouble) == 2
    assert len(set(run.rig_trouble)) == 2
