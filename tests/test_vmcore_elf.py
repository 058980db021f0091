"""The front of a core file: what readelf makes of it, and what is said of files that are none."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from vmtests.command import require
from vmtests.elf import Note, build_id
from vmtests.errors import HostFailure
from vmtests.vmcore import elf
from vmtests.vmcore.elf import Core, Segment

NOTES = (Note("CORE", 1, bytes(336)), Note("VMCOREINFO", 0, b"OSRELEASE=7.3.4\n"), Note("vmtests", 1, b"{}x"))
SEGMENTS = (Segment(0, 0x200000, 0x1000, 0x1000), Segment(1 << 32, 100 << 30, 0x3000, 0x2000))


CORE = Core(NOTES, SEGMENTS)


def written(folder: Path, core: Core = CORE) -> Path:
    file = folder / "core"
    file.write_bytes(core.pack())
    with file.open("r+b") as handle:
        handle.truncate(max((one.offset + one.stored for one in core.segments), default=len(core.pack())))
    return file


def test_there_and_back(tmp_path: Path) -> None:
    core = elf.read(written(tmp_path))
    assert core == CORE
    assert core.note("vmtests", 1) == b"{}x"
    assert core.note("vmtests", 2) is None
    assert len(core.pack()) == elf.front_bytes(NOTES, len(SEGMENTS))


def test_readelf_reads_the_same(tmp_path: Path) -> None:
    shown = subprocess.run(
        [require("readelf", package="binutils"), "-hlnW", written(tmp_path)], check=True, capture_output=True, text=True
    )
    assert not shown.stderr
    assert re.search(r"Type:\s+CORE", shown.stdout)
    assert re.search(r"Machine:\s+Advanced Micro Devices X86-64", shown.stdout)
    loads = re.findall(r"LOAD\s+(\S+)\s+\S+\s+(\S+)\s+(\S+)\s+(\S+)", shown.stdout)
    assert [tuple(int(word, 16) for word in load) for load in loads] == [
        (one.offset, one.address, one.stored, one.size) for one in SEGMENTS
    ]
    assert re.findall(r"^  (\w+)\s+0x(\w+)", shown.stdout, re.MULTILINE)[-3:] == [
        ("CORE", f"{336:08x}"),
        ("VMCOREINFO", f"{16:08x}"),
        ("vmtests", f"{3:08x}"),
    ]


@pytest.mark.parametrize("left", [10, 63, 100, 0x1FFF, 0x4FFF])
def test_a_file_that_is_cut_off(left: int, tmp_path: Path) -> None:
    file = written(tmp_path)
    with file.open("r+b") as handle:
        handle.truncate(left)
    with pytest.raises(HostFailure, match=f"core is cut off: it has {left} bytes of"):
        elf.read(file)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no ELF file"),
        (b"#!/bin/sh\n", "is no ELF file: it begins with b'#!/bin/s'"),
        (b"KDUMP   " + bytes(100), "is a dump compressed by makedumpfile, not an ELF file"),
        (b"makedumpfile" + bytes(100), "in makedumpfile's flattened format"),
        (b"\x7fELF\x01\x01" + bytes(100), "not one of 64 bits"),
        (Core((), ()).pack()[:16] + b"\x02" + Core((), ()).pack()[17:], "no core file of an x86-64 machine"),
        (Core((), ()).pack()[:18] + b"\xb7" + Core((), ()).pack()[19:], "no core file of an x86-64 machine"),
        (Core((), ()).pack()[:54] + b"\x20" + Core((), ()).pack()[55:], "program headers of 32 bytes"),
    ],
)
def test_a_file_that_is_none(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(HostFailure, match=said):
        elf.read(file)


def test_a_note_that_goes_beyond_the_others(tmp_path: Path) -> None:
    data = bytearray(Core(NOTES, ()).pack())
    struct.pack_into("<I", data, 64 + 56 + 4, 1 << 20)
    (tmp_path / "core").write_bytes(data)
    with pytest.raises(HostFailure, match="goes beyond the end of its notes"):
        elf.read(tmp_path / "core")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="cannot be read: Is a directory"):
        elf.read(tmp_path)


def test_the_build_id_of_a_program(tmp_path: Path) -> None:
    note = Note("GNU", 3, bytes.fromhex("00ff" * 10))
    assert build_id(written(tmp_path, Core((Note("GNU", 1, b"abi!"), note), ()))) == "00ff" * 10
    assert build_id(written(tmp_path)) is None
