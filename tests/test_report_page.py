"""The report page: what it says is what the record says, it needs nothing but itself, and believes no string."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.fake_report import CHECK, END, WRONG, full
from vmtests.errors import ExitCode, UsageError
from vmtests.record import BindEntry, ComparisonEntry, DifferenceEntry, FlipEntry, MemmapEntry, Record
from vmtests.report import page, provenance, words
from vmtests.report.gather import Gathered, gather
from vmtests.timing import history

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The page's elements, links and words; balanced, or it cannot be made."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        #: The rows of all tables, their cells' words joined.
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.words.append(" ".join(data.split()))
            if {"td", "th"} & {*self.open}:
                self.rows[-1][-1] = f"{self.rows[-1][-1]} {self.words[-1]}".strip()

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def typeset(text: str) -> str:
    """Return text as the page has it, once its spaces are all alike."""
    return " ".join(words.typeset(text).split())


def shown(*records: Record, history_folder: Path | None = None) -> tuple[str, Page]:
    text = page.render(gather([record.folder for record in records]), history_folder)
    return text, Page(text)


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    """No script, no element that loads, no address that is not in the page; anchors only to itself."""
    record = full(tmp_path / "run", argv=("pytest", "--kernel-tree", "https://example.org/linux.git"), checks=(WRONG,))
    text, parsed = shown(record)
    names = {name for name, _ in parsed.elements}
    assert not names & {"script", "iframe", "img", "object", "embed", "audio", "video", "base", "form"}
    for name, attributes in parsed.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), f"<{name} {key}>"
            if key in ("href", "src", "action", "data", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:,")), f"<{name} {key}={value}>"
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    without_argv = text.replace("https://example.org/linux.git", "")
    assert "http:" not in without_argv
    assert "https:" not in without_argv
    (policy,) = [one for name, one in parsed.elements if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy["content"]).startswith("default-src 'none'")


def test_ids_are_unique_and_references_lead_somewhere(tmp_path: Path) -> None:
    text, parsed = shown(full(tmp_path / "run", checks=(CHECK, WRONG)))
    ids = [one["id"] for _, one in parsed.elements if "id" in one]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href="#([^"]*)"', text))
    assert used
    assert used <= set(ids)


def test_every_comparison_is_there(tmp_path: Path) -> None:
    record = full(tmp_path / "run", clock="wall", pairs=6, kernels=(("base", 273.52), ("patched", 104.59)))
    _, parsed = shown(record)
    comparisons = record.entries(ComparisonEntry)
    assert len(comparisons) == 2
    first, rebind = comparisons
    rows = {row[0]: row[1:] for row in reversed(parsed.rows)}  # of two alike the first
    assert rows["base"][:4] == [f"{first.base_value:.2f}", f"{rebind.base_value:.2f}", "180", "6"]
    assert rows["patched"][:4] == [f"{first.patched_value:.2f}", f"{rebind.patched_value:.2f}", "180", "6"]
    assert rows["against base"][:3] == [
        typeset(words.change(first.ratio)),
        typeset(words.change(rebind.ratio)),
        "6 pairs",
    ]
    assert typeset(words.change(rebind.ratio)) in parsed.words  # the card
    assert rebind.ci_low is not None
    assert rebind.ci_high is not None
    for side in (rebind.ci_low, rebind.ci_high):
        assert typeset(words.change(side)) in parsed.text
    assert words.sees(rebind) in rows["against base"][-1]
    assert "Faster" in parsed.words


def test_all_binds_come_back_from_the_page(tmp_path: Path) -> None:
    record = full(tmp_path / "run")
    whole, parsed = shown(record)
    (text,) = re.findall(r"<pre>(kernel,boot.*?)</pre>", whole, re.DOTALL)
    rows = list(csv.DictReader(io.StringIO(text)))
    binds = record.entries(BindEntry)
    assert [int(row["duration_ns"]) for row in rows] == [bind.duration_ns for bind in binds]
    assert [(row["kernel"], int(row["boot"]), int(row["index"])) for row in rows] == [
        (bind.kernel, bind.boot, bind.index) for bind in binds
    ]
    tips = [word for word in parsed.words if re.match(r"base, boot 0, bind 7:", word)]
    (bind,) = [bind for bind in binds if (bind.kernel, bind.boot, bind.index) == ("base", 0, 7)]
    assert f"base, boot 0, bind 7: {bind.duration_ns / bind.pages:.6g} instructions/page" in tips


def test_every_memmap_check_is_there(tmp_path: Path) -> None:
    difference = DifferenceEntry(
        base="base", patched="patched", namespace="fsdax-dev", pages_compared=123456, mismatches=7
    )
    record = full(tmp_path / "run", checks=(CHECK, WRONG), differences=(difference,), code=ExitCode.KERNEL_FAILED)
    _, parsed = shown(record)
    for check in record.entries(MemmapEntry):
        assert f"{check.pages_checked:,}" in parsed.text
        for one in check.wrong_fields:
            assert {one["field"], f"{one['count']:,}", f"{one['first_pfn']:#x}"} <= set(parsed.words)
        for one in check.examples:
            assert {f"{one['pfn']:#x}", one["got"], one["wanted"]} <= set(parsed.words)
    assert "500,008 wrong" in parsed.words
    assert {"123,456", "7"} <= set(parsed.words)
    alt = [str(one.get("aria-label")) for name, one in parsed.elements if name == "svg" and one.get("role") == "img"]
    assert any(f"flags is wrong 500,000 times, pfn {END - 500000:#x} to {END - 1:#x}" in text for text in alt)
    assert any("info block, 8 KiB pfn 0x100000" in text for text in alt)


def test_a_record_without_the_range_has_no_picture_and_says_so(tmp_path: Path) -> None:
    old = dataclasses.replace(WRONG, start_pfn=None, first_pfn=None, end_pfn=None, wrong_fields=())
    _, parsed = shown(full(tmp_path / "run", checks=(old,)))
    assert "This record does not say where in the range they are: no picture." in parsed.text
    assert "0xa5a5a5a5a5a5a5a5" in parsed.words


def test_pictures_have_words(tmp_path: Path) -> None:
    _, parsed = shown(full(tmp_path / "run", checks=(WRONG,)))
    drawings = [one for name, one in parsed.elements if name == "svg" and one.get("role") == "img"]
    assert len(drawings) >= 5
    assert all(one.get("aria-label") for one in drawings)
    assert "Every bind, in the order it ran" in parsed.words


def test_counts_are_not_called_time(tmp_path: Path) -> None:
    _, parsed = shown(full(tmp_path / "run"))
    assert "Fewer" in parsed.words
    assert "Not measured" in parsed.words
    assert not re.search(r"\b(faster|slower)\b", parsed.text, re.IGNORECASE)
    assert f"clock: {words.CLOCKS['icount']}" in parsed.words


def test_no_verdict_is_not_called_the_same(tmp_path: Path) -> None:
    record = full(tmp_path / "run", clock="wall", pairs=1, kernels=(("base", 10.0), ("patched", 10.1)))
    _, parsed = shown(record)
    assert "No verdict" in parsed.words
    assert [one["class"] for name, one in parsed.elements if name == "article"][1] == "card unsure"
    assert "No verdict on time: 1 pair of boots cannot tell whether patched differs from base." in parsed.text
    assert not re.search(r"\bsame\b", parsed.text.replace("what is called the same", ""), re.IGNORECASE)


def test_a_broken_rig_gives_no_verdict_on_counts(tmp_path: Path) -> None:
    record = full(tmp_path / "run", code=ExitCode.HOST_FAILED)
    record.document["rig_trouble"] = ["the rig is broken: kernel base, boots differ"]
    parsed = Page(page.render(Gathered((record,), ())))
    assert "The rig is broken" in parsed.words
    assert "The rig is broken: no count of this run means anything. Every struct page is right." in parsed.words
    assert parsed.words.count("the rig is broken: kernel base, boots differ") >= 3
    assert "Fewer" not in parsed.words


def test_what_the_checks_are_worth(tmp_path: Path) -> None:
    blind = dataclasses.replace(CHECK, not_checked=("the time of the function",))
    flips = FlipEntry(
        kernel="base", boot=0, namespace="fsdax-dev", flips=50, found=49, invented=0, pages=50, seconds=1.0
    )
    record = full(tmp_path / "run", checks=(blind,))
    record.document["flips"] = [flips.to_json()]
    parsed = Page(page.render(Gathered((record,), ())))
    assert "49 of 50 flipped bits found" in parsed.words
    assert "base: the check found 49 of 50 flipped bits in 1 kind of namespace" in parsed.words
    assert "base: not checked: the time of the function" in parsed.words


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}$\\frac{$\u202e\x1b[2J"


def test_strings_of_a_guest_do_nothing(tmp_path: Path) -> None:
    """In every place where a record has a free string: as text, whole, with what is not printable as escapes."""
    bad = dataclasses.replace(
        WRONG,
        kernel=HOSTILE,
        examples=({"pfn": "<b>", "field": HOSTILE, "got": HOSTILE, "wanted": ["<i>"]},),
        wrong_fields=(dict(WRONG.wrong_fields[0]) | {"field": HOSTILE},),
    )
    record = full(
        tmp_path / "run",
        kernels=(("base", 55.0), (HOSTILE, 13.0)),
        checks=(bad,),
        warnings=(HOSTILE,),
        argv=("pytest", HOSTILE),
        failure=f"test failed\n{HOSTILE}",
        kernel={"release": HOSTILE, "source": HOSTILE, "compiler": HOSTILE},
    )
    text, parsed = shown(record)
    assert not {name for name, _ in parsed.elements} & {"script", "img", "b", "i"}
    assert not [one for _, attributes in parsed.elements for one in attributes if one.startswith("on")]
    assert "\x1b" not in text
    assert "\u202e" not in text
    seen = parsed.text
    assert seen.count("<script>alert(1)</script>") > 20
    assert "{{7*7}}$\\frac{$\\u202e\\x1b[2J" in seen


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    record = full(tmp_path / "run", pairs=2, code=ExitCode.TERMINATED)
    record.document["binds"] = record.document["binds"][:-3]
    parsed = Page(page.render(Gathered((record,), ())))
    assert "Incomplete" in parsed.words
    assert "122 / 124" in parsed.words  # the last of the three is over poison, which is no sample
    assert "the run was ended by SIGTERM (exit code 143)" in parsed.text
    assert "fsdax-dev: 2 of 124 binds are missing" in parsed.text


def test_a_run_that_never_began_has_a_page(tmp_path: Path) -> None:
    record = full(tmp_path / "run", pairs=0, checks=(), code=ExitCode.HOST_FAILED, failure="no QEMU here")
    record.document["host"] = None
    parsed = Page(page.render(Gathered((record,), ())))
    assert "this host could not finish the run (exit code 3)" in parsed.text
    assert "no QEMU here" in parsed.words
    assert "not known: the run ended before a guest was started" in parsed.words


def test_the_command_runs_it_again(tmp_path: Path) -> None:
    argv = ("/v/lib/pytest/__main__.py", "vmtests/", "-k", "a b", "--record=x", "--patch", "my $file", "--seed", "3")
    _, parsed = shown(full(tmp_path / "run", argv=argv))
    assert "python3 -m pytest vmtests/ -k 'a b' --patch 'my $file' --seed 4711" in parsed.words


def test_configs_that_differ(tmp_path: Path) -> None:
    record = full(tmp_path / "run")
    for name, lines in (("base", "CONFIG_A=y\nCONFIG_B=4\n"), ("patched", "CONFIG_A=y\n# CONFIG_B is not set\n")):
        (record.folder / f"{name}.config").write_text(lines)
    assert list(provenance.configs(record)) == [], "no evidence that they are of this run"
    record.document["evidence"] += [{"kind": "config", "path": f"{name}.config"} for name in ("base", "patched")]
    assert list(provenance.configs(record)) == [("patched", ("CONFIG_B: 4 -> n",))]
    shown = page.render(Gathered((record,), ()))
    assert "config of patched: 1 option other than in base" in shown
    assert "CONFIG_B: 4 -&gt; n" in shown
    (record.folder / "base.config").unlink()
    assert list(provenance.configs(record)) == []


def test_evidence_outside_the_record_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    record = full(tmp_path / "run", failure="what failed")
    record.document["evidence"].append({"kind": "failure", "path": "../secret"})
    text = page.render(Gathered((record,), ()))
    assert "what failed" in text
    assert "a secret" not in text


def test_several_comparisons_fold_those_that_are_the_same(tmp_path: Path) -> None:
    record = full(
        tmp_path / "run",
        kernels=(("base", 55.0), ("one", 55.0), ("two", 40.0), ("three", 60.0)),
        namespaces=("fsdax-dev", "devdax-2m-dev"),
    )
    _, parsed = shown(record)
    assert "All comparisons of rebinds" in parsed.words
    assert "2 comparisons: the same" in parsed.words
    assert "2 more, 2 same, 2 fewer" in parsed.words
    assert "Change by kernel, against base" in parsed.words
    order = [row[1].split()[0] for row in parsed.rows if len(row) > 1 and row[1].endswith(" against base")]
    assert order == ["three", "three", "two", "two", "one", "one"]


def test_two_clocks_share_a_page(tmp_path: Path) -> None:
    counts = full(tmp_path / "counts")
    times = full(tmp_path / "times", clock="wall", pairs=6, kernels=(("base", 273.0), ("patched", 104.0)))
    _, parsed = shown(counts, times)
    assert {"Fewer", "Faster"} <= set(parsed.words)
    assert f"clock: {words.clock('wall', emulated=True)}" in parsed.words


def test_two_runs_are_held_against_each_other(tmp_path: Path) -> None:
    _, parsed = shown(
        full(tmp_path / "monday"), full(tmp_path / "tuesday", kernels=(("base", 55.27), ("patched", 13.9)))
    )
    assert "The records against each other" in parsed.words
    assert "not reproduced" in parsed.words


def test_the_history_is_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    for day, figure in enumerate((13.16, 13.16, 14.0)):
        history.add(folder, full(tmp_path / str(day), kernels=(("base", 55.27), ("patched", figure))))
    last = gather([tmp_path / "2"])
    parsed = Page(page.render(last, folder))
    assert "patched, fsdax-dev, rebinds" in parsed.words
    assert any("+6.38 %" in word for word in parsed.words)
    assert "this run" in parsed.words
    stranger = full(tmp_path / "other", kernel={"config_sha256": "e" * 64})
    assert "has no run like this one" in Page(page.render(gather([stranger.folder]), folder)).text
    with pytest.raises(UsageError, match="holds no history"):
        page.render(last, tmp_path / "nowhere")


def test_twenty_pairs_are_drawn_in_time_and_in_bounds(tmp_path: Path) -> None:
    """Under a megabyte. The time is the processor's: a busy machine is not the page's fault."""
    record = full(tmp_path / "run", clock="wall", pairs=20, kernels=(("base", 273.0), ("patched", 250.0)))
    assert len(record.entries(BindEntry)) == 20 * 2 * 32
    begun = time.process_time()
    text, parsed = shown(record)
    assert time.process_time() - begun < 10
    assert len(text.encode()) < 1 << 20
    marks = [one for name, one in parsed.elements if name == "use"]
    assert len(marks) > 20 * 2 * 32


def test_all_kinds_of_namespace_stay_below_a_megabyte(tmp_path: Path) -> None:
    kinds = tuple(f"kind-{number}" for number in range(8))
    text, parsed = shown(full(tmp_path / "run", pairs=3, namespaces=kinds))
    assert len(text.encode()) < 1 << 20
    assert parsed.words.count("Every bind, in the order it ran") == 8


def test_too_many_binds_are_not_drawn_and_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmtests.report.page.page.BINDS", 100)
    text, parsed = shown(full(tmp_path / "run"))
    assert "Every bind, in the order it ran" not in parsed.words
    assert "too many binds to draw" in parsed.text
    assert "Change by pair of boots, patched against base" in parsed.words
    assert "kernel,boot" not in text
