"""The run record: what is written can be read, what is wrong is named, what is unknown is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vmtests.errors import ExitCode, UsageError
from vmtests.record import SCHEMA, BindEntry, EvidenceEntry, HostEntry, RecordWriter, read

BIND = BindEntry(
    kernel="base",
    boot=0,
    namespace="fsdax-dev",
    index=0,
    pages=25804288,
    pr_debug_ms=1486,
    duration_ns=1486_000_000,
    tsc=None,
    bind_write_ns=None,
    unbind_write_ns=None,
    clock="wall",
    poisoned=False,
)
HOST = HostEntry(
    accelerator="tcg",
    accelerator_reason="asked for",
    cpu_model="Icelake-Server",
    missing_cpu_features=("spec-ctrl",),
    qemu_version="7.2.22",
    cpus=2,
    memory_bytes=1 << 34,
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of a record with one bind."""
    writer = RecordWriter(tmp_path / "out", argv=["pytest"], seed=7)
    writer.set_host(HOST)
    writer.add(BIND)
    writer.save(ExitCode.PASSED)
    return tmp_path / "out"


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_comes_back(written: Path) -> None:
    record = read(written)
    assert record.entries(BindEntry) == (BIND,)
    assert record.host == HOST
    assert record.document["verdict"] == "passed"
    assert record.document["schema"] == SCHEMA


def test_parts_of_other_processes_become_one(written: Path, tmp_path: Path) -> None:
    other = replace(BIND, kernel="patched")
    whole = RecordWriter(tmp_path / "whole", argv=["pytest", "-n", "2"], seed=7)
    for bind in (BIND, other):
        part = RecordWriter(tmp_path / bind.kernel, argv=["pytest"], seed=7)
        part.set_host(HOST)
        part.add(BIND, bind)
        part.dmesg_warnings.append(bind.kernel)
        whole.merge(json.loads(json.dumps(part.document(ExitCode.PASSED))))
    whole.save(ExitCode.PASSED)
    record = read(tmp_path / "whole")
    assert record.entries(BindEntry) == (BIND, other)
    assert record.host == read(written).host
    assert record.document["dmesg_warnings"] == ["base", "patched"]


def test_a_table_is_one_piece_of_evidence(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "out", argv=["pytest"], seed=7)
    for line in ("M01  caught", "M02  caught"):
        writer.add_line("mutants", line)
    assert (tmp_path / "out/mutants.txt").read_text() == "M01  caught\nM02  caught\n"
    assert writer.entries(EvidenceEntry) == (EvidenceEntry(kind="mutants", path="mutants.txt"),)


def test_unknown_fields_are_kept(written: Path) -> None:
    _edit(written, weather="rain")
    assert read(written).document["weather"] == "rain"


def test_a_newer_schema_is_refused(written: Path) -> None:
    _edit(written, schema=SCHEMA + 1)
    with pytest.raises(UsageError, match="newer vmtests"):
        read(written)


def test_the_wrong_field_is_named(written: Path) -> None:
    bad = BIND.to_json() | {"pages": -1}
    _edit(written, binds=[bad])
    with pytest.raises(UsageError, match=r"binds\[0\]\.pages"):
        read(written)


def test_a_record_that_is_cut_off_is_refused(written: Path) -> None:
    path = written / "run.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(UsageError, match="cut off"):
        read(written)


def test_no_record_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path)


def test_an_old_record_is_not_overwritten(written: Path) -> None:
    with pytest.raises(UsageError, match="holds a run record already"):
        RecordWriter(written, argv=[], seed=1)


def test_an_invalid_entry_is_not_written(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, argv=[], seed=1)
    writer.add(EvidenceEntry(kind="log", path="/absolute"))
    with pytest.raises(ValueError, match="evidence"):
        writer.save(ExitCode.PASSED)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (ExitCode.PASSED, "passed"),
        (ExitCode.KERNEL_FAILED, "kernel-failed"),
        (ExitCode.HOST_FAILED, "host-failed"),
        (ExitCode.BUG, "bug"),
        (ExitCode.NO_VERDICT, "no-verdict"),
        (ExitCode.INTERRUPTED, "no-verdict"),
    ],
)
def test_every_exit_code_has_its_verdict(tmp_path: Path, code: ExitCode, verdict: str) -> None:
    RecordWriter(tmp_path, argv=[], seed=1).save(code)
    assert read(tmp_path).document["verdict"] == verdict
