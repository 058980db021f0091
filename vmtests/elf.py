"""The front of an ELF file (elf(5)) of 64 bits: what it is, its segments and its notes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vmtests.errors import HostFailure

#: e_ident up to the version: 64 bits, little endian, version 1, System V.
IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
#: Elf64_Ehdr behind e_ident: type, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize,
#: shnum, shstrndx.
HEADER = struct.Struct("<HHIQQQIHHHHHH")
#: Elf64_Phdr: type, flags, offset, vaddr, paddr, filesz, memsz, align.
PROGRAM = struct.Struct("<IIQQQQQQ")
#: Elf64_Shdr: name, type, flags, addr, offset, size, link, info, addralign, entsize.
_SECTION = struct.Struct("<IIQQQQIIQQ")
#: Elf64_Nhdr: the sizes of name and description, type.
_NOTE = struct.Struct("<III")

#: Bytes of e_ident and what stands behind it.
START = len(IDENT) + HEADER.size

PT_NOTE = 4
_NT_GNU_BUILD_ID = 3

#: The first bytes of dumps that are not ELF, and who writes such.
_OTHERS = {b"KDUMP   ": "compressed by makedumpfile", b"makedumpfile": "in makedumpfile's flattened format"}


@dataclass(frozen=True)
class Note:
    """A note: `name` says whose it is, and who that is says what `type` means."""

    name: str
    type: int
    data: bytes

    def pack(self) -> bytes:
        """Return it as it stands in a file."""
        name = self.name.encode() + b"\0"
        return _NOTE.pack(len(name), len(self.data), self.type) + _padded(name) + _padded(self.data)


@dataclass(frozen=True)
class Front:
    """What stands at the front of an ELF file.

    Args:
        kind, machine: e_type and e_machine.
        programs: the program headers, as in `PROGRAM`.
        notes: all of them.
    """

    kind: int
    machine: int
    programs: tuple[tuple[int, ...], ...]
    notes: tuple[Note, ...]


def build_id(file: Path) -> str | None:
    """Return the build id of a program such as a vmlinux, in hexadecimal digits; None if it has none.

    Raises:
        HostFailure: it is no ELF file, or cut off.
    """
    return next(
        (note.data.hex() for note in front(file).notes if (note.name, note.type) == ("GNU", _NT_GNU_BUILD_ID)), None
    )


def sections(file: Path) -> frozenset[str]:
    """Return the names of the sections of a program such as a vmlinux.

    Raises:
        HostFailure: it is no ELF file, or cut off.
    """
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            fields = _header(file, handle.read(START))
            names = fields[12]
            headers = _table(file, handle, size, fields[5], fields[11], _SECTION)
            strings = os.pread(handle.fileno(), headers[names][5], headers[names][4]) if headers else b""
    except OSError as error:
        raise HostFailure(f"{file} cannot be read: {error.strerror}") from error
    return frozenset(strings[one[0] : strings.find(b"\0", one[0])].decode(errors="replace") for one in headers)


def front(file: Path) -> Front:
    """Read the front of an ELF file and see that all that it names is there.

    Raises:
        HostFailure: it is no ELF file, or cut off.
    """
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            fields = _header(file, handle.read(START))
            offset, entry, count = fields[4], fields[8], fields[9]
            if entry != PROGRAM.size:
                raise HostFailure(f"{file} has program headers of {entry} bytes, not {PROGRAM.size}: it is damaged")
            programs = _table(file, handle, size, offset, count, PROGRAM)
            needed = max((one[2] + one[5] for one in programs), default=0)
            if size < needed:
                raise _cut(file, size, needed)
            notes: list[Note] = []
            for kind, _, at, _, _, stored, _, _ in programs:
                if kind == PT_NOTE:
                    notes += _notes(file, os.pread(handle.fileno(), stored, at))
    except OSError as error:
        raise HostFailure(f"{file} cannot be read: {error.strerror}") from error
    return Front(fields[0], fields[1], tuple(programs), tuple(notes))


def _table(
    file: Path, handle: BinaryIO, size: int, offset: int, count: int, entry: struct.Struct
) -> list[tuple[int, ...]]:
    """Return the entries of a table of headers; HostFailure if the file, of `size` bytes, ends in it."""
    table = os.pread(handle.fileno(), count * entry.size, offset)
    if len(table) < count * entry.size:
        raise _cut(file, size, offset + count * entry.size)
    return list(entry.iter_unpack(table))


def _header(file: Path, data: bytes) -> Sequence[int]:
    for start, whose in _OTHERS.items():
        if data.startswith(start):
            raise HostFailure(f"{file} is a dump {whose}, not an ELF file: only those can be read")
    if not data.startswith(IDENT[:4]):
        raise HostFailure(f"{file} is no ELF file: it begins with {data[:8]!r}")
    if len(data) < START:
        raise _cut(file, len(data), START)
    if data[:6] != IDENT[:6]:
        raise HostFailure(f"{file} is an ELF file, but not one of 64 bits, little endian")
    fields: tuple[int, ...] = HEADER.unpack_from(data, len(IDENT))
    return fields


def _notes(file: Path, data: bytes) -> Iterable[Note]:
    at = 0
    while at + _NOTE.size <= len(data):
        name_size, size, kind = _NOTE.unpack_from(data, at)
        name_at = at + _NOTE.size
        data_at = name_at + _round(name_size)
        at = data_at + _round(size)
        if data_at + size > len(data):
            raise HostFailure(f"{file} has a note that goes beyond the end of its notes: it is damaged")
        name = data[name_at : name_at + name_size].rstrip(b"\0")
        yield Note(name.decode(errors="replace"), kind, data[data_at : data_at + size])


def _cut(file: Path, size: int, needed: int) -> HostFailure:
    return HostFailure(f"{file} is cut off: it has {size} bytes of {needed}. Copy it again, or write it again")


def _round(size: int) -> int:
    return (size + 3) & ~3


def _padded(data: bytes) -> bytes:
    return data.ljust(_round(len(data)), b"\0")
