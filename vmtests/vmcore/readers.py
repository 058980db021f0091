"""The memmap of a dump as three readers see it: our bulk reader, drgn and crash.

A check that only we can read convinces nobody, so the others read a sample of the same struct pages: all bytes, and
every member by its name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import drgn

from vmtests.errors import HostFailure
from vmtests.memmap.access import Access
from vmtests.memmap.compare import Reader, pieces
from vmtests.memmap.expected import Expected, Segment, expected
from vmtests.memmap.known import Known
from vmtests.vmcore.crash import Crash, parse_memory, parse_struct
from vmtests.vmcore.dump import Dump

#: A folio's struct pages that differ: the head, the tails that hold the folio's own data, the next one.
_FRONT = 4

_KINDS = (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION)


@dataclass(frozen=True)
class Reading:
    """One struct page: its bytes, and each member's value by its name as in "lru.next"."""

    data: bytes
    members: Mapping[str, int]


#: By pfn.
Readings = Mapping[int, Reading]


@dataclass(frozen=True)
class Agreement:
    """What two readers say of the same struct pages.

    Args:
        pages, members: how many were compared.
        differences: in words, each with the pfn, what differs, and both values.
    """

    pages: int
    members: int
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.pages > 0 and not self.differences


def agree(ours: Readings, theirs: Readings, name: str) -> Agreement:
    """Hold another reader, called `name`, against ours: the same struct pages, bytes and members."""
    differences = []
    if ours.keys() != theirs.keys():
        differences.append(f"{name} read {len(theirs)} struct pages, not the same {len(ours)}")
    members = 0
    for pfn in ours.keys() & theirs.keys():
        mine, other = ours[pfn], theirs[pfn]
        if mine.data != other.data:
            differences.append(f"pfn {pfn:#x}: the bytes are {mine.data.hex()}, {name} says {other.data.hex()}")
        for member in mine.members.keys() | other.members.keys():
            members += 1
            values = mine.members.get(member), other.members.get(member)
            if values[0] != values[1]:
                shown = ("absent" if value is None else f"{value:#x}" for value in values)
                differences.append(f"pfn {pfn:#x}: {member} is {next(shown)}, {name} says {next(shown)}")
    return Agreement(len(ours.keys() & theirs.keys()), members, tuple(sorted(differences)))


def sample(dump: Dump, known: Known, count: int, seed: int) -> list[int]:
    """Choose `count` pfns of a memmap: both ends of each part, heads and tails of folios, the rest at random."""
    chance = random.Random(seed)
    parts = _segments(dump, known)
    chosen: dict[int, None] = {}
    for part in parts:
        units = [0, part.units - 1, *(chance.randrange(part.units) for _ in range(count // 16))]
        places = sorted({*range(min(_FRONT, part.stored)), part.stored - 1})
        chosen |= {part.first_pfn + unit * part.stride + place: None for unit in units for place in places}
    while len(chosen) < count:
        part = chance.choice(parts)
        chosen[part.first_pfn + chance.randrange(part.units) * part.stride + chance.randrange(part.stored)] = None
    # What comes first are the ends and the folios' fronts; no more of them than were asked for.
    return sorted(list(chosen)[:count])


def in_bulk(dump: Dump, known: Known, pfns: Sequence[int]) -> Readings:
    """Read struct pages as the memmap check does."""
    access, members = dump.access, _members(dump.access)
    size = access.layout.size
    found: dict[int, Reading] = {}
    with access.memory() as memory:
        window = access.window(memory, known.truth.start_pfn, known.truth.end_pfn)
        for segment in _segments(dump, known):
            reader = Reader(memory, window, segment, access.layout, access.vmemmap)
            inside = [pfn for pfn in pfns if segment.first_pfn <= pfn < segment.end_pfn]
            places = [(*divmod(pfn - segment.first_pfn, segment.stride), pfn) for pfn in inside]
            for piece in pieces(segment, size):
                hits = [
                    (unit - piece.unit, page - piece.first, pfn)
                    for unit, page, pfn in places
                    if 0 <= unit - piece.unit < piece.units and piece.first <= page < piece.end
                ]
                if not hits:
                    continue
                words = reader.read(piece)[0]
                for unit, page, pfn in hits:
                    data = words[unit, page].tobytes()
                    values = {name: int.from_bytes(data[at : at + n], "little") for name, (at, n) in members.items()}
                    found[pfn] = Reading(data, values)
    return found


def by_drgn(dump: Dump, pfns: Sequence[int]) -> Readings:
    """Read struct pages by drgn: its own way through page tables and segments."""
    access, program = dump.access, dump.program
    members = _members(access)
    found = {}
    for pfn in pfns:
        address = access.vmemmap + pfn * access.layout.size
        page = drgn.Object(program, "struct page", address=address)
        values = {name: int(page.subobject_(name).value_()) % (1 << 8 * size) for name, (_, size) in members.items()}
        found[pfn] = Reading(program.read(address, access.layout.size), values)
    return found


def by_crash(crash: Crash, dump: Dump, pfns: Sequence[int]) -> Readings:
    """Read struct pages by crash, in one session.

    Raises:
        HostFailure: crash cannot read one.
    """
    size = dump.access.layout.size
    addresses = [dump.access.vmemmap + pfn * size for pfn in pfns]
    commands = [f"rd -64 {address:x} {size // 8}" for address in addresses]
    commands += [f"struct page {address:x} -x" for address in addresses]
    outputs = crash.run(dump, commands)
    found = {}
    for index, pfn in enumerate(pfns):
        memory, struct = outputs[index], outputs[index + len(pfns)]
        try:
            found[pfn] = Reading(parse_memory(memory), parse_struct(struct))
        except ValueError as error:
            raise HostFailure(
                f"crash {crash.version} cannot read the struct page of pfn {pfn:#x} in {dump.file}: {error}",
                output=memory + struct,
            ) from error
    return found


def _segments(dump: Dump, known: Known) -> tuple[Segment, ...]:
    """Return the parts of a memmap, as they are expected; nothing of it is read for that."""
    access, truth = dump.access, known.truth
    facts = access.facts(access.sections(truth.start_pfn, truth.end_pfn), known.node)
    want: Expected = expected(truth, access.layout, facts)
    return (*([want.reserve] if want.reserve else []), *want.pages)


def _members(access: Access) -> Mapping[str, tuple[int, int]]:
    """Return offset and size of every member of struct page, in all of its unions."""

    def walk(type_: drgn.Type, path: str, base: int) -> Iterator[tuple[str, tuple[int, int]]]:
        for member in _plain(type_).members or ():
            offset = base + member.offset
            name = ".".join(filter(None, (path, member.name)))
            if _plain(member.type).kind in _KINDS:
                yield from walk(member.type, name, offset)
            else:
                yield name, (offset, drgn.sizeof(member.type))

    return dict(walk(access.program.type("struct page"), "", 0))


def _plain(type_: drgn.Type) -> drgn.Type:
    while type_.kind == drgn.TypeKind.TYPEDEF:
        type_ = type_.type
    return type_
