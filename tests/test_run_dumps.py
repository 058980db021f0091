"""Which failures are dumped, and that only the dump of a failed test stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fake_vmcore import FakeMonitor
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Cause, Death
from vmtests.guest.death import Witness
from vmtests.record import RecordWriter
from vmtests.run.dumps import Dumps
from vmtests.vmcore import About, elf

PANIC = Cause(Witness.PANIC_EVENT, "the kernel panicked", by_kernel=True)


class Kernel:
    name, release, vmlinux = "base", "7.3.4", Path("/cache/vm linux")

    def config_values(self) -> dict[str, str]:
        return {"CONFIG_X86_64": "y"}


class Guest:
    """As much of one as is dumped."""

    def __init__(self, folder: Path) -> None:
        self.kernel = Kernel()
        self.death = Death()
        self.evidence = folder
        folder.mkdir(parents=True)
        ram = folder.parent / "ram"
        ram.write_bytes(b"\x01" * 8192)
        self.monitor = FakeMonitor([(0, 8192, ram, 0)])


@pytest.fixture
def record(tmp_path: Path) -> RecordWriter:
    return RecordWriter(tmp_path / "out", argv=["pytest"], seed=1)


@pytest.fixture
def guest(record: RecordWriter) -> Any:
    return Guest(record.folder / "guest-001-base")


@pytest.fixture
def dumps(record: RecordWriter) -> Dumps:
    return Dumps(record, enabled=True)


def fails(dumps: Dumps, guest: Any, error: Exception) -> None:
    """A test holds the guest in a with statement and fails in it."""
    with pytest.raises(type(error)), dumps.watch(guest):
        raise error


def test_the_dump_of_a_failed_test_stays(dumps: Dumps, guest: Any, record: RecordWriter) -> None:
    failure = KernelFailure("the memmap is wrong (base)\nin many words")
    fails(dumps, guest, failure)
    file = guest.evidence / "vmcore"
    said = dumps.failed(failure, "test_x")
    assert said == [
        f"the guest as it was: {file} (8.0 KiB); to open it:",
        f"vmtests memmap check {file}",
        f"vmtests drgn {file}",
        f"drgn -c {file} -s '/cache/vm linux'",
        f"vmtests crash {file}",
    ]
    assert About.read(elf.read(file), file).reason == "the memmap is wrong (base)"
    record.save(1)
    saved = json.loads((record.folder / "run.json").read_text())
    assert saved["evidence"] == [{"kind": "vmcore", "path": "guest-001-base/vmcore", "test": "test_x"}]
    # One a run, and the next test that passes does not take it away.
    fails(dumps, guest, failure)
    assert dumps.failed(failure) == []
    dumps.passed()
    assert file.exists()


def test_the_dump_of_a_test_that_failed_as_it_should_goes(dumps: Dumps, guest: Any) -> None:
    fails(dumps, guest, KernelFailure("as expected"))
    assert (guest.evidence / "vmcore").exists()
    dumps.passed()
    assert not (guest.evidence / "vmcore").exists()
    fails(dumps, guest, KernelFailure("not expected"))
    assert len(dumps.failed(KernelFailure("not expected"))) == 5


def test_a_guest_that_a_fixture_holds_is_dumped_when_the_test_has_failed(dumps: Dumps, guest: Any) -> None:
    with dumps.watch(guest):
        assert len(dumps.failed(KernelFailure("wrong"))) == 5
        assert guest.monitor.running
    assert (guest.evidence / "vmcore").exists()


def test_the_innermost_guest_is_dumped_with_what_is_known_of_it(dumps: Dumps, guest: Any, record: RecordWriter) -> None:
    inner: Any = Guest(record.folder / "guest-002-patched")
    asked = []
    with dumps.watch(guest), dumps.watch(inner, lambda: asked.append(1) or []):  # type: ignore[func-returns-value]
        dumps.failed(KernelFailure("wrong"))
    assert (inner.evidence / "vmcore").exists()
    assert not (guest.evidence / "vmcore").exists()
    assert asked == [1]


@pytest.mark.parametrize(
    ("error", "dies", "written"),
    [
        (KernelFailure("x"), False, True),
        (HostFailure("x"), False, False),
        (AssertionError("x"), False, False),
        # What follows from the kernel's death: a lost connection, a wrong answer.
        (HostFailure("x"), True, True),
        (AssertionError("x"), True, True),
    ],
)
def test_only_the_kernels_failures_are_dumped(
    dumps: Dumps, guest: Any, error: Exception, dies: bool, written: bool
) -> None:
    if dies:
        guest.death.report(PANIC)
    fails(dumps, guest, error)
    assert (guest.evidence / "vmcore").exists() == written


def test_none_when_none_is_wanted(record: RecordWriter, guest: Any) -> None:
    dumps = Dumps(record, enabled=False)
    fails(dumps, guest, KernelFailure("x"))
    assert dumps.failed(KernelFailure("x")) == []
    assert not (guest.evidence / "vmcore").exists()


def test_a_dump_that_cannot_be_written_is_no_failure_of_its_own(dumps: Dumps, guest: Any) -> None:
    guest.monitor.vmcoreinfo = None
    fails(dumps, guest, KernelFailure("x"))
    (said,) = dumps.failed(KernelFailure("x"))
    assert said.startswith("no dump of the guest: the guest gives no VMCOREINFO")


def test_a_dump_is_no_larger_than_the_disk_can_bear(dumps: Dumps, guest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    free: Callable[[Any], Any] = lambda _: type("", (), {"free": 8192})  # noqa: E731
    monkeypatch.setattr("vmtests.run.dumps.shutil.disk_usage", free)
    fails(dumps, guest, KernelFailure("x"))
    (said,) = dumps.failed(KernelFailure("x"))
    assert "more than the 0 MiB that it may" in said
