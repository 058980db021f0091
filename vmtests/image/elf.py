"""What a program needs at run time: its loader and its libraries, read from the ELF file itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5

#: Elf64_Phdr: type, flags, offset, vaddr, paddr, filesz, memsz, align.
_SEGMENT = struct.Struct("<IIQQQQQQ")


def needed(binary: bytes) -> tuple[str, ...]:
    """Return the names of the loader (its whole path) and the libraries that a 64-bit ELF file asks for.

    A file that is no ELF file, such as a script, and a static one need nothing.
    """
    if binary[:5] != b"\x7fELF\x02":
        return ()
    names = [_string(binary, segment[2]) for segment in _segments(binary) if segment[0] == _PT_INTERP]
    entries = list(_dynamic(binary))
    strings = next((_offset(binary, value) for tag, value in entries if tag == _DT_STRTAB), 0)
    names += [_string(binary, strings + value) for tag, value in entries if tag == _DT_NEEDED]
    return tuple(names)


def _segments(binary: bytes) -> Iterator[tuple[int, ...]]:
    start = struct.unpack_from("<Q", binary, 0x20)[0]
    count = struct.unpack_from("<H", binary, 0x38)[0]
    for index in range(count):
        yield _SEGMENT.unpack_from(binary, start + index * _SEGMENT.size)


def _dynamic(binary: bytes) -> Iterator[tuple[int, int]]:
    for kind, _, offset, _, _, size, *_ in _segments(binary):
        if kind == _PT_DYNAMIC:
            yield from struct.iter_unpack("<QQ", binary[offset : offset + size])


def _offset(binary: bytes, address: int) -> int:
    for kind, _, offset, start, _, size, *_ in _segments(binary):
        if kind == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError(f"no segment of the ELF file holds address {address:#x}")


def _string(binary: bytes, offset: int) -> str:
    return binary[offset : binary.index(b"\0", offset)].decode()
