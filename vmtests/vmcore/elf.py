"""ELF core files (elf(5)) as far as a vmcore is made of them: x86-64, one segment of notes, then physical memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import HostFailure

#: e_ident up to the version: 64 bits, little endian, version 1, System V.
_IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
#: Elf64_Ehdr behind e_ident: type, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize,
#: shnum, shstrndx.
_HEADER = struct.Struct("<HHIQQQIHHHHHH")
#: Elf64_Phdr: type, flags, offset, vaddr, paddr, filesz, memsz, align.
_PROGRAM = struct.Struct("<IIQQQQQQ")
#: Elf64_Nhdr: the sizes of name and description, type.
_NOTE = struct.Struct("<III")

_START = len(_IDENT) + _HEADER.size

_ET_CORE, _EM_X86_64, _EV_CURRENT = 4, 62, 1
_PT_LOAD, _PT_NOTE = 1, 4
_PF_R, _PF_W, _PF_X = 4, 2, 1
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
class Segment:
    """`size` bytes of physical memory from `address` on; the first `stored` of them are in the file, the rest is zero.

    Args:
        address, size: of physical memory, bytes.
        stored: bytes in the file.
        offset: where they begin there.
    """

    address: int
    size: int
    stored: int
    offset: int = 0

    @property
    def end(self) -> int:
        return self.address + self.size


@dataclass(frozen=True)
class Core:
    """What stands at the front of a core file."""

    notes: tuple[Note, ...]
    segments: tuple[Segment, ...]

    def pack(self) -> bytes:
        """Return header, program headers and notes; the segments' offsets must be behind them (`front_bytes`)."""
        notes = b"".join(map(Note.pack, self.notes))
        count = 1 + len(self.segments)
        at = _START + count * _PROGRAM.size
        header = _HEADER.pack(
            _ET_CORE, _EM_X86_64, _EV_CURRENT, 0, _START, 0, 0, _START, _PROGRAM.size, count, 0, 0, 0
        )  # fmt: skip
        programs = [_PROGRAM.pack(_PT_NOTE, 0, at, 0, 0, len(notes), len(notes), 4)]
        programs += [
            # Physical memory only: which address the kernel has for it, its page tables say.
            _PROGRAM.pack(_PT_LOAD, _PF_R | _PF_W | _PF_X, one.offset, 0, one.address, one.stored, one.size, 0)
            for one in self.segments
        ]
        return b"".join((_IDENT, header, *programs, notes))

    def note(self, name: str, type_: int) -> bytes | None:
        """Return the data of the first such note, or None."""
        return next((note.data for note in self.notes if (note.name, note.type) == (name, type_)), None)


def front_bytes(notes: Iterable[Note], segments: int) -> int:
    """Return the size of what stands before the segments' bytes."""
    return _START + (1 + segments) * _PROGRAM.size + sum(len(note.pack()) for note in notes)


def read(file: Path) -> Core:
    """Read the front of a core file and see that all of it is there.

    Raises:
        HostFailure: it is none, it is another machine's, or it is cut off.
    """
    kind, machine, programs, notes = _open(file)
    if (kind, machine) != (_ET_CORE, _EM_X86_64):
        raise HostFailure(f"{file} is an ELF file, but no core file of an x86-64 machine")
    segments = (Segment(one[4], one[6], one[5], one[2]) for one in programs if one[0] == _PT_LOAD)
    return Core(notes, tuple(sorted(segments, key=lambda segment: segment.address)))


def build_id(file: Path) -> str | None:
    """Return the build id of a program such as a vmlinux, in hexadecimal digits; None if it has none.

    Raises:
        HostFailure: it is no ELF file, or cut off.
    """
    notes = _open(file)[3]
    return next((note.data.hex() for note in notes if (note.name, note.type) == ("GNU", _NT_GNU_BUILD_ID)), None)


def _open(file: Path) -> tuple[int, int, list[tuple[int, ...]], tuple[Note, ...]]:
    """Return type, machine, program headers and notes of an ELF file."""
    try:
        with file.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            fields = _header(file, handle.read(_START))
            offset, entry, count = fields[4], fields[8], fields[9]
            if entry != _PROGRAM.size:
                raise HostFailure(f"{file} has program headers of {entry} bytes, not {_PROGRAM.size}: it is damaged")
            table = os.pread(handle.fileno(), count * entry, offset)
            if len(table) < count * entry:
                raise _cut(file, size, offset + count * entry)
            programs = list(_PROGRAM.iter_unpack(table))
            needed = max((one[2] + one[5] for one in programs), default=0)
            if size < needed:
                raise _cut(file, size, needed)
            notes: list[Note] = []
            for kind, _, at, _, _, stored, _, _ in programs:
                if kind == _PT_NOTE:
                    notes += _notes(file, os.pread(handle.fileno(), stored, at))
    except OSError as error:
        raise HostFailure(f"{file} cannot be read: {error.strerror}") from error
    return fields[0], fields[1], programs, tuple(notes)


def _header(file: Path, data: bytes) -> Sequence[int]:
    for start, whose in _OTHERS.items():
        if data.startswith(start):
            raise HostFailure(f"{file} is a dump {whose}, not an ELF file: only those can be read")
    if not data.startswith(_IDENT[:4]):
        raise HostFailure(f"{file} is no ELF file: it begins with {data[:8]!r}")
    if len(data) < _START:
        raise _cut(file, len(data), _START)
    if data[:6] != _IDENT[:6]:
        raise HostFailure(f"{file} is an ELF file, but not one of 64 bits, little endian")
    fields: tuple[int, ...] = _HEADER.unpack_from(data, len(_IDENT))
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
