"""What the summary says of flipped bits and of what could not be checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from vmtests.errors import ExitCode
from vmtests.record import FlipEntry, MemmapEntry, RecordWriter, read
from vmtests.report import summary

FLIPS = FlipEntry(
    kernel="base",
    boot=0,
    namespace="fsdax-dev",
    flips=1000,
    found=1000,
    invented=0,
    pages=1000,
    seconds=1.1,
)
CHECK = MemmapEntry(
    kernel="no-kprobes",
    boot=0,
    namespace="fsdax-dev",
    bind_index=1,
    pages_expected=3072,
    pages_checked=3072,
    bytes_per_page_checked=64,
    poisoned=True,
    mismatches=0,
    seconds=0.1,
    read_limit_seconds=0.1,
    examples=(),
    pages_poisoned=3072,
    not_checked=("the arguments",),
)


def rendered(folder: Path, *entries: FlipEntry | MemmapEntry) -> str:
    writer = RecordWriter(folder, argv=[], seed=1)
    writer.add(*entries)
    writer.save(ExitCode.PASSED)
    assert [*read(folder).entries(FlipEntry), *read(folder).entries(MemmapEntry)] == list(entries)
    return summary.render(writer, width=120, colour=False) + "\n"


def test_flips_are_summed_for_each_kernel(tmp_path: Path) -> None:
    other = replace(FLIPS, namespace="fsdax-mem", found=999, invented=2)
    said = rendered(tmp_path, FLIPS, other, replace(FLIPS, kernel="patched"))
    assert (
        "base: the check found 1,999 of 2,000 flipped bits in 2 kinds of namespace, and reported 2 that nobody flipped"
        in said
    )
    assert "patched: the check found 1,000 of 1,000 flipped bits in 1 kind of namespace\n" in said


def test_what_was_not_checked_is_said(tmp_path: Path) -> None:
    assert "no-kprobes: not checked: the arguments\n" in rendered(tmp_path, CHECK, replace(CHECK, bind_index=2))


def test_a_record_from_before_there_were_flips(tmp_path: Path) -> None:
    rendered(tmp_path, CHECK)
    path = tmp_path / "run.json"
    document = json.loads(path.read_text())
    del document["flips"]
    path.write_text(json.dumps(document))
    assert read(tmp_path).entries(FlipEntry) == ()
