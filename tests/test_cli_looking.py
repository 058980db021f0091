"""What `vmtests drgn` and `vmtests memmap check` are pointed at, and what is said of what they cannot look into."""

from __future__ import annotations

import json
from pathlib import Path

import drgn
import pytest

from tests.fake_memmap import BASE, MEMMAP, fsdax, page, truth
from tests.fake_report import full
from tests.test_vmcore_dump import dumped
from vmtests.cli import main
from vmtests.cli.drgn import _helpers
from vmtests.cli.targets import look_into
from vmtests.errors import ExitCode, HostFailure, UsageError
from vmtests.memmap.check import check
from vmtests.memmap.session import Session


@pytest.fixture(autouse=True)
def nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which no guest runs, and no kernel was built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def record_with(folder: Path, *dumps: str) -> Path:
    """Write a record that says that it has these dumps."""
    full(folder, pairs=1)
    path = folder / "run.json"
    document = json.loads(path.read_text())
    document["evidence"] = [{"kind": "vmcore", "path": name} for name in dumps]
    path.write_text(json.dumps(document))
    return folder


def test_a_guest_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="there is no kept guest 'guest-none'"):
        look_into("guest-none", None)
    with pytest.raises(UsageError, match="--vmlinux goes with a dump"):
        look_into("guest-none", Path("vmlinux"))


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file .*monday, and no folder"):
        look_into(str(tmp_path / "monday"), None)


def test_a_folder_that_is_no_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json does not exist"):
        look_into(str(tmp_path), None)


@pytest.mark.parametrize(
    ("dumps", "said"),
    [
        ((), "has no dump: a run leaves one when the kernel fails a test"),
        (("guest-001-base/vmcore",), "is not there any more: guest-001-base/vmcore"),
        (("a", "b"), "has 2 dumps; name one: .*/a, .*/b"),
    ],
)
def test_a_record_without_the_one_dump(tmp_path: Path, dumps: tuple[str, ...], said: str) -> None:
    folder = record_with(tmp_path / "monday", *dumps)
    for name in ("a", "b"):
        (folder / name).touch()
    with pytest.raises(UsageError, match=said):
        look_into(str(folder), None)


def test_the_dump_of_a_record_is_opened(tmp_path: Path) -> None:
    """It is found; what is missing here is its kernel."""
    folder = record_with(tmp_path / "monday", "vmcore")
    dumped(folder)
    with pytest.raises(HostFailure, match="monday/vmcore .* is none of the 0 in the cache"):
        look_into(str(folder), None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["guest-none"], "drgn needs a terminal, and this is none: --exec CODE or a script"),
        (["-c", "1", "guest-none", "script.py"], "give either --exec CODE or a script"),
        (["guest-none", "no-such-script.py"], "there is no script no-such-script.py"),
        (["guest-none", "-c", "1"], "there is no kept guest"),
    ],
)
def test_drgn_says_what_it_needs(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drgn", *arguments]) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_drgn_opens_what_has_no_ranges_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A kernel that died in the middle of a bind is the one to look at."""
    helpers = _helpers(Session("a dump", drgn.Program(), (), tuple))
    assert (helpers["pfns"], helpers["pgmap"]) == (range(0), None)
    assert "the ranges cannot be read: the kernel's debug info has no pgmap_array" in capsys.readouterr().err
    assert helpers["check"]() is True, "nothing is wrong where there is nothing"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a shell needs a terminal"),
        (["--exec", "true", "--pmem-size", "5M"], "an NVDIMM cannot be 5 MiB: it must be a multiple of 16 MiB"),
        (["--exec", "true", "--mode", "dax"], "a namespace's mode cannot be 'dax'"),
        (["--exec", "true", "--align", "3M"], "the nearest is 2 MiB"),
        (["--exec", "true", "--timeout", "soon"], "--timeout soon: write a time"),
        (["nowhere", "--exec", "true"], "nowhere"),
        (["patch", "--exec", "true"], "there are none"),
    ],
)
def test_boot_refuses_before_it_builds_anything(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["boot", *arguments]) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_a_result_for_a_program(tmp_path: Path) -> None:
    """As `vmtests memmap check --json` writes it, of a memmap with two wrong pages."""
    made = fsdax(tmp_path)
    for pfn in (BASE + 1024, BASE + 1025):
        made.write(MEMMAP + 64 * (pfn - BASE), page(references=1))
    value = json.loads(json.dumps(check(made.access(), truth(), node=0).to_json()))
    assert (value["passed"], value["mismatches"], value["histogram"]) == (False, 2, {"_refcount": 2})
    assert value["examples"][0] == {
        "pfn": BASE + 1024,
        "field": "_refcount",
        "got": "0x00000001",
        "wanted": "0x00000000",
    }
    assert value["wrong_fields"][0]["last_pfn"] == BASE + 1025
