"""What a dying kernel printed, for people: without its registers, each place with its file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import drgn

#: Lines that tell a person nothing without a disassembler: the bytes of the code, registers, selectors
#: (arch/x86/kernel/process_64.c:68 in 7.3.4). RIP is a register too, but in the kernel it names a place.
_REGISTERS = re.compile(
    r"(?:^|\] )(?:Code: |RIP: 0033|R(?!IP)[A-Z0-9]{1,2} ?: ?[0-9a-f]{4}|[CDFG]S: |CR[0-9]: |DR[0-9]: |PKRU: )"
)

#: %pS: a symbol, the offset of an address in it, and its size. No symbol is longer than KSYM_NAME_LEN; unbounded, it
#: would take long to look for in a line that a hostile guest has made for that.
_PLACE = re.compile(
    r"(?P<rip>RIP: 0010:)?(?<!\? )\b"
    r"(?P<name>[A-Za-z_][\w.]{0,511})\+0x(?P<at>[0-9a-f]{1,16})/0x(?P<size>[0-9a-f]{1,16})"
)

#: Where the kernel's text is linked: __START_KERNEL_map, arch/x86/include/asm/page_64_types.h.
_TEXT = 0xFFFFFFFF80000000

#: What the kernel calls a function's size is the distance to the next one, which begins at a multiple of this at most.
_ALIGNMENT = 64


def readable(text: str, vmlinux: Path | None) -> str:
    """Return what a kernel printed with the source position behind each place that it names.

    Args:
        text: the end of the console.
        vmlinux: its debug info, without which the places stay as they are.
    """
    lines = [line for line in _once(text.splitlines()) if not _REGISTERS.search(line)]
    if vmlinux is not None and any(map(_PLACE.search, lines)):
        program = _program(vmlinux)
        lines = [line + _positions(program, line) for line in lines]
    return "\n".join(lines)


def _once(lines: Iterable[str]) -> Iterator[str]:
    """Leave out the registers that die() shows again for the case that the trace has scrolled away."""
    again = False
    for line in lines:
        again = (again or "---[ end trace" in line) and "Kernel panic" not in line
        if not again:
            yield line


def _program(vmlinux: Path) -> drgn.Program:
    """Return a program that knows the kernel's symbols and lines, without a running kernel."""
    import drgn

    program = drgn.Program()
    module = program.extra_module("vmlinux", create=True)
    module.try_file(vmlinux, force=True)
    # After the file, for addresses as they were linked: guests boot with nokaslr.
    module.address_range = (_TEXT, (1 << 64) - 1)
    return program


def _positions(program: drgn.Program, line: str) -> str:
    found = _PLACE.search(line)
    if found is None:
        return ""
    at, size = int(found["at"], 16), int(found["size"], 16)
    # A caller's address is that of the next instruction, which may be another line's.
    behind = 0 if found["rip"] else 1
    try:
        # Several functions may have one name.
        symbols = program.symbols(found["name"])
        [address] = {symbol.address for symbol in symbols if 0 <= size - symbol.size < _ALIGNMENT}
        places = program.source_location(address + at - behind)
    except (LookupError, ValueError):
        return ""
    return "  " + _chain([(place.name() or "?", place.filename, place.line) for place in places])


def _chain(places: Sequence[tuple[str, str, int]]) -> str:
    """Return "mm/x.c:12", and for code that is inlined "inner mm/x.h:3, in mm/x.c:12"."""
    *inlined, (_, file, line) = places
    shown = [f"{name} {_short(inner)}:{number}" for name, inner, number in inlined]
    return ", in ".join([*shown, f"{_short(file)}:{line}"])


def _short(file: str) -> str:
    return file.removeprefix("/linux/").removeprefix("../")
