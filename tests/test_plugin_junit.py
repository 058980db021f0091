"""JUnit's file has the figures: those of each test in its testcase, those of the verdicts in its testsuite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.fake_report import CHECK, samples
from vmtests import plugin
from vmtests.errors import ExitCode
from vmtests.guest import Kept
from vmtests.record import BindEntry, RecordWriter
from vmtests.run.dumps import Dumps
from vmtests.timing import verdict

CASES = """
from tests.test_plugin_junit import CHECK, samples

def test_base(run):
    run.record.add(*samples("base", 0, 55.0, "icount", 3), CHECK)

def test_patched(run):
    run.record.add(*samples("patched", 0, 13.0, "icount", 3))

def test_red(run):
    run.record.add(*samples("patched", 1, 13.0, "icount", 3))
    assert False
"""


class FakeRun:
    """A run that boots nothing; its tests put binds into the record."""

    def __init__(self, _options: object, argv: Sequence[str], _progress: object) -> None:
        self.record = RecordWriter(Path.cwd() / "out", argv=argv, seed=1)
        self.dumps = Dumps(self.record, enabled=False)
        self.kept: list[Kept] = []

    @cached_property
    def verdicts(self) -> tuple[ExitCode, ...]:
        self.record.add(*verdict.compare_all(self.record.entries(BindEntry), ["base", "patched"], "icount"))
        return ()

    def note_failure(self, test: str, text: str) -> None:
        pass

    def save(self, code: int) -> Path:
        return self.record.save(code)

    def close(self) -> None:
        pass


def test_properties(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    import vmtests.run.run

    monkeypatch.setattr(vmtests.run.run, "Run", FakeRun)
    monkeypatch.setattr(plugin, "_CASES", pytester.path)
    pytester.makepyfile(CASES)
    pytester.runpytest_inprocess("--junitxml", "out.xml", "-p", "no:cacheprovider")
    root = ElementTree.parse(pytester.path / "out.xml").getroot()

    def figures(element: ElementTree.Element) -> dict[str, str]:
        return {one.attrib["name"]: one.attrib["value"] for one in element.findall("properties/property")}

    cases = {case.attrib["name"]: figures(case) for case in root.iter("testcase")}
    assert cases["test_base"]["base.fsdax-dev.boot0.rebinds.count"] == "3"
    assert cases["test_base"]["base.fsdax-dev.boot0.bind0.memmap.pages_checked"] == str(CHECK.pages_checked)
    assert float(cases["test_patched"]["patched.fsdax-dev.boot0.first.instructions_per_page"]) == pytest.approx(
        13, 1e-3
    )
    assert not any(name.startswith("base.") for name in cases["test_patched"])
    assert "patched.fsdax-dev.boot1.clock" in cases["test_red"]
    (suite,) = root.iter("testsuite")
    verdicts = figures(suite)
    assert verdicts["patched-against-base.fsdax-dev.rebind.verdict"] == "fewer"
    assert float(verdicts["patched-against-base.fsdax-dev.rebind.ratio"]) == pytest.approx(13 / 55, 1e-3)
    record = (pytester.path / "out" / "run.json").read_text()
    assert record.count('"metric": "rebind"') == 1, "compared twice, noted once"


__all__ = ["CHECK", "samples"]
