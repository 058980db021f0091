"""Where the guest's memory lies: QEMU's flat view, page tables, the files behind them."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vmtests.errors import HostFailure
from vmtests.memmap.pagetable import UNMAPPED, walk
from vmtests.memmap.physical import PhysicalMemory, Region, parse_flat_view, regions

RAM, NV = Path("/guest/ram"), Path("/guest/nvdimm0")

#: As QEMU 7.2 prints it for q35 with 4 GiB of RAM and an NVDIMM; the line ends are QEMU's.
FLAT_VIEW = """FlatView #0
 AS "cpu-smm-0", root: memory
 Root memory region: memory
  0000000000000000-000000000009ffff (prio 0, ram): smram

FlatView #4
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): ram
  00000000000c3000-00000000000e7fff (prio 0, rom): ram @00000000000c3000
  00000000000e8000-00000000000effff (prio 0, ram): ram @00000000000e8000
  00000000000f0000-00000000000fffff (prio 0, rom): ram @00000000000f0000
  0000000000100000-000000007fffffff (prio 0, ram): ram @0000000000100000 KVM
  00000000b0000000-00000000bfffffff (prio 0, i/o): pcie-mmcfg-mmio
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-000000017fffffff (prio 0, ram): ram @0000000080000000
  0000000180000000-0000001a7fffffff (prio 0, nv-ram): nvdimm0

""".replace("\n", "\r\n")

WANTED = (
    Region(0, 2 << 30, RAM, 0),
    Region(4 << 30, 2 << 30, RAM, 2 << 30),
    Region(6 << 30, 100 << 30, NV, 0),
)


def test_the_flat_view_is_parsed() -> None:
    assert parse_flat_view(FLAT_VIEW, {"ram": RAM, "nvdimm0": NV}) == WANTED


def test_a_view_without_memory_is_an_error() -> None:
    with pytest.raises(HostFailure, match="no address space called memory"):
        parse_flat_view(FLAT_VIEW.replace('"memory"', '"other"'), {"ram": RAM})


class Monitor:
    def __init__(self, share: bool = True) -> None:
        self.share = share

    def execute(self, command: str, **arguments: Any) -> Any:
        if command == "qom-list":
            kinds = {"ram": "memory-backend-file", "nvdimm0": "memory-backend-file", "other": "rng-random"}
            return [{"name": name, "type": f"child<{kind}>"} for name, kind in kinds.items()]
        if command == "qom-get":
            paths = {"/objects/ram": str(RAM), "/objects/nvdimm0": str(NV)}
            return self.share if arguments["property"] == "share" else paths[arguments["path"]]
        assert arguments == {"command-line": "info mtree -f"}
        return FLAT_VIEW


def test_qemu_is_asked_for_files_and_addresses() -> None:
    assert regions(Monitor()) == WANTED


def test_memory_that_is_private_to_qemu_is_refused() -> None:
    with pytest.raises(HostFailure, match="share=on"):
        regions(Monitor(share=False))


@pytest.fixture
def memory(tmp_path: Path) -> PhysicalMemory:
    low, high = tmp_path / "low", tmp_path / "high"
    low.write_bytes(bytes(range(256)) * 64)  # 16 KiB
    high.write_bytes(b"H" * 8192)
    return PhysicalMemory((Region(0, 8192, low, 8192), Region(8192, 8192, high, 0), Region(65536, 4096, high, 4096)))


def test_reading_across_two_files(memory: PhysicalMemory) -> None:
    with memory:
        assert memory.read(8190, 4) == b"\xfe\xffHH"


def test_frames_are_read_in_the_order_given(memory: PhysicalMemory) -> None:
    buffer = bytearray(3 * 4096)
    with memory:
        memory.read_frames(memoryview(buffer), np.array([65536, 0, 4096], dtype=np.int64))
    assert buffer == b"H" * 4096 + bytes(range(256)) * 32


def test_an_address_in_no_file(memory: PhysicalMemory) -> None:
    frames = np.array([0, 12288, 16384, 65536, 69632], dtype=np.int64)
    assert memory.contains(frames).tolist() == [True, True, False, True, False]
    with memory, pytest.raises(HostFailure, match=r"guest physical address 0x4000 is in none"):
        memory.read(16380, 8)


def test_what_is_written_is_read_back(memory: PhysicalMemory) -> None:
    with PhysicalMemory(memory.regions, writable=True) as writable:
        writable.write(8190, b"abcd")
        assert writable.read(8189, 6) == b"\xfdabcdH"


def test_holes_are_told_from_data(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as handle:
        handle.truncate(1 << 20)
        os.pwrite(handle.fileno(), b"x" * 4096, 256 << 10)
    frames = np.array([0, 192 << 10, 256 << 10, 512 << 10], dtype=np.int64)
    with PhysicalMemory(
        (Region(0, 384 << 10, file, 64 << 10), Region(512 << 10, 512 << 10, file, 512 << 10))
    ) as memory:
        assert memory.written(frames).tolist() == [False, True, False, False]


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="cannot be opened"), PhysicalMemory((Region(0, 4096, tmp_path / "no", 0),)):
        pass


# Page tables: 5 levels, a page of 1 GiB, one of 2 MiB, one of 4 KiB and a gap.

START = 0xFFD4_0000_4000_0000


def tables() -> dict[int, bytes]:
    present, leaf, no_execute = 1, 1 << 7, 1 << 63

    def table(**entries: int) -> bytes:
        words = [0] * 512
        for name, value in entries.items():
            words[int(name[1:])] = value
        return struct.pack("<512Q", *words)

    return {
        0: table(e468=0x1000 | present),  # ffd4... >> 48 & 511
        0x1000: table(e0=0x2000 | present),
        0x2000: table(e1=0x40000000 | leaf | present | no_execute, e2=0x3000 | present),
        0x3000: table(e0=0x80200000 | leaf | present | 1 << 12, e1=0x4000 | present),
        0x4000: table(e0=0x7000 | present, e1=0x9000, e2=0xABC000 | present | no_execute),
    }


def test_pages_of_every_size_are_found() -> None:
    memory = tables()
    start = START + (1 << 30) - 4096
    window = walk(memory.__getitem__, memory[0], 5, start, START + (1 << 30) + (2 << 20) + 4 * 4096)
    frames = window.frames.tolist()
    assert window.start == start
    assert frames[0] == 0x40000000 + (1 << 30) - 4096
    assert frames[1:513] == [0x80200000 + 4096 * i for i in range(512)]
    assert frames[513:] == [0x7000, UNMAPPED, 0xABC000, UNMAPPED]


def test_addresses_in_the_middle_of_a_page_get_the_whole_page() -> None:
    memory = tables()
    window = walk(memory.__getitem__, memory[0], 5, START + 100, START + 200)
    assert (window.start, window.frames.tolist()) == (START, [0x40000000])
    assert window.slice(START + 4000, 96).tolist() == [0x40000000]
    with pytest.raises(ValueError):
        window.slice(START + 4000, 97)


def test_nothing_mapped() -> None:
    memory = tables()
    window = walk(memory.__getitem__, memory[0], 5, START + (4 << 30), START + (4 << 30) + 8192)
    assert window.frames.tolist() == [UNMAPPED, UNMAPPED]
