"""What a run keeps of its guests: noted, told to be of the test that failed, and within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmtests.guest.log import LIMIT
from vmtests.record import EvidenceEntry, RecordWriter
from vmtests.report import summary
from vmtests.run import evidence
from vmtests.run.evidence import LEAST_BYTES, OWN_CHARACTERS, RUN_BYTES, Evidence


@pytest.fixture
def record(tmp_path: Path) -> RecordWriter:
    return RecordWriter(tmp_path / "out", argv=["pytest"], seed=1)


@pytest.fixture
def kept(record: RecordWriter) -> Evidence:
    return Evidence(record)


def guest_of(kept: Evidence, kernel: str = "base") -> Path:
    """A guest comes, says something and goes."""
    with kept.folder(kernel) as folder:
        (folder / "console.log").write_text("hello\n")
        (folder / "vmcore").touch()
    return folder


def told_of(record: RecordWriter) -> dict[str, str | None]:
    return {entry.path: entry.test for entry in record.entries(EvidenceEntry) if entry.kind != "failure"}


def test_guests_are_of_the_test_that_failed(kept: Evidence, record: RecordWriter) -> None:
    """Those before and behind it are not; one that runs on is, of the first that failed."""
    guest_of(kept)
    kept.over()
    with kept.folder("patched") as shared:
        (shared / "argv.sh").touch()
        kept.over()
        guest_of(kept)
        kept.failed("test_a", "why")
        kept.over()
        kept.failed("test_b", "why")
        kept.over()
    kept.over()
    guest_of(kept)
    kept.over()
    assert told_of(record) == {
        "guest-001-base/console.log": None,
        "guest-002-patched/argv.sh": "test_a",
        "guest-003-base/console.log": "test_a",
        "guest-004-base/console.log": None,
    }


def test_what_a_test_said_is_kept(kept: Evidence, record: RecordWriter) -> None:
    folder = guest_of(kept)
    kept.failed("test_a", "KernelFailure: why", [("Captured stdout call", "x" * 2 * OWN_CHARACTERS + "end\n")])
    text = (record.folder / "failures.txt").read_text()
    assert text.startswith("test_a\nKernelFailure: why\n--- Captured stdout call ---\nxxx")
    assert text.endswith(f"end\nguest: {folder}\n\n")
    assert len(text) < OWN_CHARACTERS + 1000


def test_where_it_is(kept: Evidence, record: RecordWriter) -> None:
    """One line for each guest of a test that failed, and the record last."""
    folder = guest_of(kept)
    kept.failed("test_a[\x1b[2J]", "why")
    record.add_evidence("vmcore", folder / "vmcore", test="test_a[\x1b[2J]")
    kept.over()
    assert summary.places(record).splitlines() == [
        "evidence:",
        f"  {record.folder}/failures.txt",
        f"  {folder} (console.log, vmcore) of test_a[\\x1b[2J]",
        f"record: {record.folder}/run.json",
    ]


def test_a_run_without_a_failure_has_no_evidence(kept: Evidence, record: RecordWriter) -> None:
    guest_of(kept)
    kept.over()
    assert summary.places(record) == f"record: {record.folder}/run.json"


def test_budget(kept: Evidence) -> None:
    """Each guest may have what is left for it, at most half; never nothing; and dumps are not counted."""
    assert kept.log_bytes() == LIMIT
    folder = guest_of(kept)
    with (folder / "vmcore").open("wb") as dump:
        dump.truncate(RUN_BYTES)
    assert kept.log_bytes() == LIMIT
    with (folder / "console.log").open("wb") as log:
        log.truncate(RUN_BYTES // 2 + RUN_BYTES // 4)
    assert kept.log_bytes() == RUN_BYTES // 4 // 6
    with (folder / "console.log").open("wb") as log:
        log.truncate(RUN_BYTES)
    assert kept.log_bytes() == LEAST_BYTES


class Guest:
    """As much of one as tells its kernel's log by a shell."""

    class kernel:  # noqa: N801
        vmlinux = None

    def __init__(self, folder: Path) -> None:
        self.evidence = folder

    def run(self, command: list[str], **_: Any) -> Any:
        assert command == ["dmesg"]
        return type("Result", (), {"stdout": "its log\n"})


@pytest.mark.parametrize("how", ["passes", "raises", "fails in a test that a fixture does not see"])
def test_kernel_log_of_a_failure(kept: Evidence, tmp_path: Path, how: str) -> None:
    guest: Any = Guest(tmp_path)

    def use() -> None:
        with kept.kernel_log(guest):
            if how == "raises":
                raise ZeroDivisionError
            if how.startswith("fails"):
                kept.failed("test_a", "why")

    if how == "raises":
        with pytest.raises(ZeroDivisionError):
            use()
    else:
        use()
    log = tmp_path / "dmesg.log"
    assert (log.read_text() if log.exists() else "") == ("" if how == "passes" else "its log\n")


def test_a_kernel_log_that_cannot_be_had_is_no_failure_of_its_own(
    kept: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> bytes:
        raise OSError("gone")

    monkeypatch.setattr(evidence, "_kernel_log", refuse)
    guest: Any = Guest(tmp_path)
    with pytest.raises(ZeroDivisionError), kept.kernel_log(guest):
        raise ZeroDivisionError
    assert not (tmp_path / "dmesg.log").exists()
