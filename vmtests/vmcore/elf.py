"""ELF core files (elf(5)) as far as a vmcore is made of them: x86-64, one segment of notes, then physical memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vmtests.elf import HEADER, IDENT, PROGRAM, PT_NOTE, START, Note, front
from vmtests.errors import HostFailure

_ET_CORE, _EM_X86_64, _EV_CURRENT = 4, 62, 1
_PT_LOAD = 1
_PF_R, _PF_W, _PF_X = 4, 2, 1


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
        at = START + count * PROGRAM.size
        header = HEADER.pack(
            _ET_CORE, _EM_X86_64, _EV_CURRENT, 0, START, 0, 0, START, PROGRAM.size, count, 0, 0, 0
        )  # fmt: skip
        programs = [PROGRAM.pack(PT_NOTE, 0, at, 0, 0, len(notes), len(notes), 4)]
        programs += [
            # Physical memory only: which address the kernel has for it, its page tables say.
            PROGRAM.pack(_PT_LOAD, _PF_R | _PF_W | _PF_X, one.offset, 0, one.address, one.stored, one.size, 0)
            for one in self.segments
        ]
        return b"".join((IDENT, header, *programs, notes))

    def note(self, name: str, type_: int) -> bytes | None:
        """Return the data of the first such note, or None."""
        return next((note.data for note in self.notes if (note.name, note.type) == (name, type_)), None)


def front_bytes(notes: Iterable[Note], segments: int) -> int:
    """Return the size of what stands before the segments' bytes."""
    return START + (1 + segments) * PROGRAM.size + sum(len(note.pack()) for note in notes)


def read(file: Path) -> Core:
    """Read the front of a core file and see that all of it is there.

    Raises:
        HostFailure: it is none, it is another machine's, or it is cut off.
    """
    found = front(file)
    if (found.kind, found.machine) != (_ET_CORE, _EM_X86_64):
        raise HostFailure(f"{file} is an ELF file, but no core file of an x86-64 machine")
    segments = (Segment(one[4], one[6], one[5], one[2]) for one in found.programs if one[0] == _PT_LOAD)
    return Core(found.notes, tuple(sorted(segments, key=lambda segment: segment.address)))
