"""A dump is checked as its guest would be; and what is said of dumps that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fake_memmap import MEMMAP, FakeAccess, FakeGuest, devdax, devdax_in_ram, fsdax, truth
from tests.fake_vmcore import BUILD_ID, VMCOREINFO, FakeMonitor, about
from vmtests.cli import main
from vmtests.elf import Note
from vmtests.errors import ExitCode, HostFailure, UsageError
from vmtests.memmap.check import check
from vmtests.memmap.flip import prove
from vmtests.memmap.known import Known
from vmtests.memmap.physical import PhysicalMemory
from vmtests.memmap.truth import RangeTruth
from vmtests.vmcore import About, Dump, elf, write
from vmtests.vmcore.elf import Core

KINDS: dict[str, tuple[Callable[[Path], FakeGuest], RangeTruth]] = {
    "fsdax-dev": (fsdax, truth()),
    "devdax-2m-dev": (devdax, truth(kind=4, order=9)),
    "devdax-2m-mem": (devdax_in_ram, truth(kind=4, order=9, pages=2048, altmap=False)),
}
KNOWN = Known("fsdax-dev", "pfn0.0", truth(), 0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache/vmtests/kernels"
    folder.mkdir(parents=True)
    return folder


def vmlinux(folder: Path, build_id: str = BUILD_ID) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "vmlinux"
    file.write_bytes(Core((Note("GNU", 3, bytes.fromhex(build_id)),), ()).pack())
    return file


def dump_of(access: FakeAccess, file: Path) -> Dump:
    regions = [(one.start, one.size, one.file, one.offset) for one in access.regions]
    write(file, FakeMonitor(regions), about())
    return Dump(file, elf.read(file), Path("none"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_reads_a_dump_as_it_reads_a_guest(kind: str, tmp_path: Path) -> None:
    make, seen = KINDS[kind]
    access = make(tmp_path).access()
    dump = dump_of(access, tmp_path / "vmcore")
    for region in access.regions:
        region.file.unlink()
    access = replace(access, regions=dump.regions(), source=dump)
    result = check(access, seen, node=0)
    result.verify("a right one")
    assert result.pages_checked == seen.pages
    # Every bit of it counts, as in the guest.
    proof = prove(access, seen, node=0, count=64, seed=7)
    assert proof.passed, str(proof)


def test_holes_are_zeros_and_nothing_else_is_there(tmp_path: Path) -> None:
    dump = dump_of(fsdax(tmp_path).access(), tmp_path / "vmcore")
    with PhysicalMemory(dump.regions()) as memory:
        assert memory.read(MEMMAP - (1 << 20), 1 << 20) == bytes(1 << 20)
        assert memory.read(MEMMAP + 1024 * 64, 8) != bytes(8)
        with pytest.raises(HostFailure, match="is in none of the host's files"):
            memory.read(1 << 30, 1)


def test_what_was_told_comes_back(tmp_path: Path) -> None:
    core = Core((about(KNOWN).note(),), ())
    assert About.read(core, tmp_path) == about(KNOWN)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ((), "vmcore has no note of vmtests.*only dumps that vmtests wrote"),
        ((Note("vmtests", 1, b"\xff"),), "the note of vmtests in .*vmcore is damaged"),
        ((Note("vmtests", 1, b"[]"),), "the note of vmtests in .*vmcore is damaged"),
        ((Note("vmtests", 1, b'{"schema": 1, "kernel": "base"}'),), "is damaged: KeyError"),
        ((Note("vmtests", 1, b'{"schema": 99}'),), r"was written by a newer vmtests \(note 99"),
    ],
)
def test_a_dump_that_tells_nothing(notes: tuple[Note, ...], said: str) -> None:
    with pytest.raises(HostFailure, match=said):
        About.read(Core(notes, ()), Path("/x/vmcore"))


def test_a_truth_that_no_probe_gives_is_damage() -> None:
    value = json.loads(about(KNOWN).note().data)
    value["memmaps"][0]["truth"]["nr_pages"] = 0
    with pytest.raises(HostFailure, match="is damaged: ValueError"):
        About.read(Core((Note("vmtests", 1, json.dumps(value).encode()),), ()), Path("vmcore"))


def dumped(folder: Path, vmcoreinfo: str | None = VMCOREINFO) -> Path:
    file = folder / "vmcore"
    notes = [about().note()] + ([Note("VMCOREINFO", 0, vmcoreinfo.encode())] if vmcoreinfo is not None else [])
    file.write_bytes(Core(tuple(notes), ()).pack())
    return file


def test_debug_info_is_found_by_its_build_id(cache: Path, tmp_path: Path) -> None:
    vmlinux(cache / "a", "11" * 20)
    wanted = vmlinux(cache / "b")
    vmlinux(cache / ".c.1.tmp")
    assert Dump.open(dumped(tmp_path)).vmlinux == wanted
    other = vmlinux(tmp_path / "mine")
    assert Dump.open(dumped(tmp_path), other).vmlinux == other


def test_debug_info_of_another_kernel(cache: Path, tmp_path: Path) -> None:
    other = vmlinux(cache / "a", "11" * 20)
    with pytest.raises(
        HostFailure, match=rf"\(7\.3\.4, build id {BUILD_ID}\) is none of the 1 in the cache: .*--vmlinux"
    ):
        Dump.open(dumped(tmp_path))
    with pytest.raises(HostFailure, match=rf"{other} is of another kernel \(build id {'11' * 20}\) than .*{BUILD_ID}"):
        Dump.open(dumped(tmp_path), other)


@pytest.mark.parametrize(
    ("vmcoreinfo", "said"),
    [(None, "has no note VMCOREINFO"), ("OSRELEASE=5.4.0\n", "does not say which build of 5.4.0 it is of")],
)
def test_a_dump_that_does_not_say_of_what(vmcoreinfo: str | None, said: str, cache: Path, tmp_path: Path) -> None:
    assert cache.is_dir()
    with pytest.raises(HostFailure, match=said):
        Dump.open(dumped(tmp_path, vmcoreinfo))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file .*/vmcore"):
        Dump.open(tmp_path / "vmcore")
    with pytest.raises(UsageError, match="there is no file .*/vmlinux"):
        Dump.open(dumped(tmp_path), tmp_path / "vmlinux")


def test_a_dump_without_a_memmap(cache: Path, tmp_path: Path) -> None:
    vmlinux(cache / "a")
    with pytest.raises(HostFailure, match="no namespace was bound"):
        next(Dump.open(dumped(tmp_path)).check())


def test_the_command_says_what_is_wrong_with_a_file(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache.is_dir()
    assert main(["memmap", "check", str(tmp_path / "nothing")]) == ExitCode.USAGE
    file = dumped(tmp_path)
    assert main(["memmap", "check", str(file)]) == ExitCode.HOST_FAILED
    file.write_bytes(file.read_bytes()[:100])
    assert main(["memmap", "check", str(file)]) == ExitCode.HOST_FAILED
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "is cut off" in said[2]
