"""The report as text, and the command: what is said, what is refused, and what stays as it was."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_report import CHECK, WRONG, full
from vmtests.cli import main
from vmtests.errors import ExitCode, UsageError
from vmtests.record import BindEntry, ComparisonEntry, DifferenceEntry, Record, RecordWriter
from vmtests.report import formats, statement, words
from vmtests.report.gather import gather
from vmtests.report.properties import Properties

TIMES = (("base", 273.52), ("patched", 104.59))


def changelog(*records: Record) -> str:
    return formats.render("changelog", gather([record.folder for record in records]))


def table(text: str) -> dict[str, list[str]]:
    """Return the rows of the changelog's table by their name."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.startswith("  ")]
    return {row[0]: row[1:] for row in rows}


def test_the_changelog_has_the_records_figures(tmp_path: Path) -> None:
    record = full(tmp_path / "run", clock="wall", pairs=6, kernels=TIMES)
    first, rebind = record.entries(ComparisonEntry)
    rows = table(changelog(record))
    assert rows["ms"] == ["first bind", "rebinds"]
    assert rows["base"] == [f"{first.base_value:.2f}", f"{rebind.base_value:.2f}"]
    assert rows["patched"] == [f"{first.patched_value:.2f}", f"{rebind.patched_value:.2f}"]
    assert rows["against base"] == [words.change(first.ratio), words.change(rebind.ratio), "faster"]
    assert rebind.ci_low is not None
    (low,) = [row for name, row in rows.items() if name.endswith("interval from")]
    assert low[1] == words.change(rebind.ci_low)


def test_the_changelog_says_what_was_measured_and_how(tmp_path: Path) -> None:
    text = " ".join(changelog(full(tmp_path / "run")).split())
    assert "100 GiB fsdax namespace, map=dev, of 25804288 struct pages" in text
    assert "bound once and rebound 30 times in each of 2 boots of each kernel" in text
    assert "Instructions were counted by QEMU (-icount); the count is not a time" in text
    assert "25804288 struct pages in all: nothing is wrong." in text
    assert "patched is base with 0001-mine.patch." in text
    assert "fewer" in text
    assert not re.search(r"\b(faster|slower|ms)\b", text)


def test_time_under_emulation_is_marked(tmp_path: Path) -> None:
    text = changelog(full(tmp_path / "run", clock="wall", pairs=6, kernels=TIMES))
    assert "not comparable with hardware" in " ".join(text.split())


def test_nothing_is_wider_than_the_lists_want_it(tmp_path: Path) -> None:
    long = "a-kernel-with-a-name-that-somebody-made-of-the-whole-subject-of-a-patch-and-more"
    record = full(
        tmp_path / "run",
        clock="wall",
        pairs=6,
        kernels=(("base", 273.0), (long, 104.0)),
        checks=(dataclasses.replace(WRONG, kernel=long),),
        kernel={"source": "x" * 200},
    )
    lines = changelog(record).splitlines()
    assert max(map(len, lines)) <= 72
    assert any(line.startswith("  a-kernel-with-a-name") and line.rstrip().endswith("..") is False for line in lines)
    assert not any(line != line.rstrip() for line in lines)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    difference = DifferenceEntry(base="base", patched="patched", namespace="fsdax-dev", pages_compared=99, mismatches=3)
    blind = dataclasses.replace(CHECK, pages_checked=CHECK.pages_expected - 1)
    record = full(
        tmp_path / "run",
        checks=(WRONG, blind),
        differences=(difference,),
        warnings=("WARNING: at mm/memory.c",),
        code=ExitCode.KERNEL_FAILED,
    )
    text = " ".join(changelog(record).split())
    assert "patched, fsdax-dev, bind 31 (over an overwritten memmap): 500001 wrong (flags 500000, _refcount 1)" in text
    assert "the first: pfn 0x164200, _refcount is 0x00000001, must be 0x00000000." in text
    assert "only 25804287 of 25804288 struct pages could be seen" in text
    assert "99 struct pages of base and patched, fsdax-dev, differ in 3." in text
    assert "The kernels printed 1 warning." in text
    assert "nothing is wrong" not in text


def test_only_what_was_measured_is_said(tmp_path: Path) -> None:
    text = changelog(full(tmp_path / "run", pairs=0))
    assert "instructions" not in text
    assert "Every byte of every struct page" in text


def test_markdown_shows_strings_as_they_are(tmp_path: Path) -> None:
    record = full(tmp_path / "run", kernels=(("base", 55.27), ("a|b *c* <d>", 13.16)))
    text = formats.render("markdown", gather([record.folder]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[:2] == ["| instructions/page | first bind | rebinds |  |", "| --- | ---: | ---: | --- |"]
    assert r"| a\|b \*c\* \<d\> |" in rows[3]
    unescaped = [re.sub(r"\\.", "", row).count("|") for row in rows]
    assert set(unescaped) == {5}


def test_json_is_for_a_program(tmp_path: Path) -> None:
    record = full(tmp_path / "run", checks=(WRONG,), code=ExitCode.KERNEL_FAILED)
    (said,) = json.loads(formats.render("json", gather([record.folder])))["records"]
    assert said["comparisons"] == record.document["comparisons"]
    assert said["memmaps"] == record.document["memmaps"]
    assert said["verdict"] == "kernel-failed"
    assert said["completeness"]["complete"] is True
    assert said["completeness"]["binds"] == 124


def test_the_text_is_the_summary_of_the_run(tmp_path: Path) -> None:
    record = full(tmp_path / "run", warnings=("\x1b]0;gotcha\x07 WARNING",))
    text = formats.render("text", gather([record.folder]))
    assert "memmap_init_zone_device(), instructions/page" in text
    assert "25,804,288" in text
    assert "\x1b" not in text
    assert r"\x1b]0;gotcha\x07 WARNING" in text
    assert "\x1b[" in formats.render("text", gather([record.folder]), colour=True)


def test_brackets_in_a_name_are_no_markup(tmp_path: Path) -> None:
    record = full(tmp_path / "run", kernels=(("base", 55.27), ("[red]x[/red][link]", 13.16)))
    assert "[red]x[/red][link]" in formats.render("text", gather([record.folder]))


# The command.


def test_the_end_of_the_name_chooses_the_format(tmp_path: Path) -> None:
    full(tmp_path / "run")
    for name, begins in (("a.html", "<!doctype html>"), ("a.md", "memmap"), ("a.json", "{"), ("a.txt", "memmap")):
        assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / name)]) == ExitCode.PASSED
        assert (tmp_path / name).read_text().startswith(begins)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "a.html", "a.md", "a.json", "a.txt"}


def test_all_bad_records_are_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full(tmp_path / "good")
    for name in ("cut", "newer", "wrong"):
        full(tmp_path / name)
    cut, newer, wrong = (tmp_path / name / "run.json" for name in ("cut", "newer", "wrong"))
    cut.write_text(cut.read_text()[:3000])
    newer.write_text(newer.read_text().replace('"schema": 1', '"schema": 2'))
    wrong.write_text(wrong.read_text().replace('"pages": 25804288', '"pages": -1', 1))
    out = tmp_path / "page.html"
    out.write_text("the old page")
    names = ["good", "cut", "newer", "wrong", "missing"]
    assert main(["report", *(str(tmp_path / name) for name in names), "-o", str(out)]) == ExitCode.USAGE
    said = capsys.readouterr().err
    for part in (
        "cut/run.json cannot be read as a run record",
        "newer/run.json has schema 2",
        "wrong/run.json is not a valid run record: run.json.binds[0].pages",
        "missing/run.json does not exist",
        "nothing was written",
    ):
        assert part in said
    assert out.read_text() == "the old page"


def test_records_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first = full(tmp_path / "first")
    other = full(tmp_path / "other", kernels=(("one", 55.0), ("two", 13.0)))
    with pytest.raises(UsageError, match="no kernel is in both records"):
        gather([first.folder, other.folder])
    patched = full(tmp_path / "patched", clock="wall", kernel={"config_sha256": "e" * 64})
    with pytest.raises(UsageError, match="kernel base is not the same in"):
        gather([first.folder, patched.folder])
    with pytest.raises(UsageError, match="is named twice"):
        gather([first.folder, first.folder / "run.json"])


@pytest.mark.parametrize("name", ["run/run.json", "run/failures.txt", "run"])
def test_a_record_is_never_overwritten(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    full(tmp_path / "run", failure="what failed")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / name)]) == ExitCode.USAGE
    assert "another file" in capsys.readouterr().err or name == "run"
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "no" / "page.txt")]) == ExitCode.USAGE
    assert "cannot be written" in capsys.readouterr().err


def test_a_history_needs_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full(tmp_path / "run")
    run = str(tmp_path / "run")
    assert main(["report", run, "--format", "changelog", "--history", str(tmp_path)]) == ExitCode.USAGE
    assert "--history is drawn in the page only" in capsys.readouterr().err


def test_a_pipe_that_closes_is_no_traceback(tmp_path: Path) -> None:
    full(tmp_path / "run")
    command = f"{sys.executable} -m vmtests.cli report {tmp_path / 'run'} --format json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.stderr == ""


def test_compare_has_the_same_figures_in_each_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full(tmp_path / "one")
    full(tmp_path / "two", kernels=(("base", 55.27), ("patched", 14.0)))
    found = {}
    for name in ("text", "markdown", "json"):
        assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--format", name]) == ExitCode.PASSED
        found[name] = capsys.readouterr().out
    (ratio,) = [
        entry["ratio"]
        for entry in json.loads(found["json"])["entries"]
        if (entry["base"], entry["metric"]) == ("patched", "rebind")
    ]
    assert words.change(ratio) in found["text"]
    assert f"| {words.change(ratio)} | more" in found["markdown"]
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--json"]) == ExitCode.PASSED
    assert capsys.readouterr().out == found["json"]


# JUnit.


def test_each_figure_is_a_property(tmp_path: Path) -> None:
    record = full(tmp_path / "run", checks=(WRONG,))
    writer = RecordWriter(tmp_path / "again", argv=[], seed=1)
    properties = Properties(writer)
    binds = record.entries(BindEntry)
    writer.add(*[bind for bind in binds if (bind.kernel, bind.boot) == ("base", 0)], WRONG)
    found = dict(properties.added())
    assert found["base.fsdax-dev.boot0.clock"] == "icount"
    assert found["base.fsdax-dev.boot0.rebinds.count"] == 30
    first = next(bind for bind in binds if (bind.kernel, bind.boot, bind.index) == ("base", 0, 0))
    assert found["base.fsdax-dev.boot0.first.instructions_per_page"] == first.duration_ns / first.pages
    assert found["base.fsdax-dev.boot0.rebinds.median.instructions_per_page"] == pytest.approx(55.27, rel=1e-4)
    assert found["patched.fsdax-dev.boot0.bind31.memmap.mismatches"] == 500001
    assert found["patched.fsdax-dev.boot0.bind31.memmap.pages_checked"] == WRONG.pages_checked
    assert properties.added() == []
    writer.add(*record.entries(ComparisonEntry))
    verdicts = dict(properties.verdicts())
    (rebind,) = [one for one in record.entries(ComparisonEntry) if one.metric == "rebind"]
    assert verdicts["patched-against-base.fsdax-dev.rebind.ratio"] == rebind.ratio
    assert verdicts["patched-against-base.fsdax-dev.rebind.verdict"] == "fewer"
    assert verdicts["patched-against-base.fsdax-dev.rebind.clock"] == "icount"
    assert "patched-against-base.fsdax-dev.rebind.ci_low" not in verdicts


def test_blocks_of_text_are_named(tmp_path: Path) -> None:
    """What a caller may build on: paragraphs and tables in turn, figures in tables only once for each kernel."""
    found = list(statement.blocks(full(tmp_path / "run")))
    tables = [block for block in found if isinstance(block, statement.Table)]
    assert [len(block.rows) for block in tables] == [3]
