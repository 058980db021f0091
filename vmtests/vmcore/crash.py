"""crash(8), new enough for the kernel: from Debian's archive, unpacked beside its own libraries and loader.

Nothing is installed: the host's crash is usually older than the kernel, and a newer one wants a newer C library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests import command
from vmtests.borrowed import Borrowed
from vmtests.errors import HostFailure
from vmtests.kernel.vmlinux import has_only_btf
from vmtests.vmcore.dump import Dump
from vmtests.vmcore.nameless import nameless

#: Starting takes crash a few seconds: it reads all symbols and tasks.
SECONDS = 600.0

#: Said between the commands' outputs by the gdb inside; at the start of a line.
_MARK = "vmtests-mark-"

#: A line of `struct -x`: "name = 0x1f," or "name = 0x1f <symbol>,"; "name = {"; "{" of something without a name.
_VALUE = re.compile(r"(?P<name>\w+) = (?P<value>0x[0-9a-f]+)(?: <.*>)?,?")
_BEGIN = re.compile(r"(?:(?P<name>\w+) = )?\{")


@dataclass(frozen=True)
class Crash:
    """A crash that runs here."""

    program: Borrowed

    @classmethod
    def fetch(cls) -> Crash:
        """Return the newest crash of Debian's archive at the first call, from then on the same one from the cache.

        Raises:
            HostFailure: the archive cannot be reached.
        """
        return cls(Borrowed.fetch("crash"))

    @property
    def version(self) -> str:
        """The package's."""
        return self.program.version

    def argv(self, dump: Dump, *options: str) -> list[str]:
        """Return the command that opens a dump; without options it is for a person.

        Raises:
            HostFailure: crash cannot read the types of its kernel.
        """
        if has_only_btf(dump.vmlinux):
            raise HostFailure(
                f"{dump.vmlinux} has BTF only, and crash reads DWARF: `vmtests memmap check {dump.file}` does without"
            )
        return self.program.argv(*options, str(dump.vmlinux.absolute()), str(dump.file.absolute()))

    def run(self, dump: Dump, commands: Sequence[str], *, seconds: float = SECONDS) -> list[str]:
        """Run commands on a dump and return what each of them printed; one that crash refuses prints its complaint.

        Raises:
            HostFailure: crash does not open the dump, or ends before the last command.
        """
        if any("\n" in line for line in commands):
            raise ValueError(f"a command of several lines: {commands!r}")
        marked = [text for index, line in enumerate(commands) for text in (line, f"gdb echo {_MARK}{index}\\n")]
        script = "\n".join([f"gdb echo {_MARK}start\\n", *marked, "quit"]) + "\n"
        with nameless(script.encode()) as file:
            result = command.run(
                self.argv(dump, "-s", "--no_crashrc", "--no_scroll", "-i", str(file)),
                seconds=seconds,
                # Nobody's .crashrc and .gdbinit.
                cwd=Path("/"),
                env={"HOME": "/nonexistent", "TERM": "dumb"},
                check=False,
            )
        outputs = re.split(rf"^{_MARK}\w+\n", result.stdout, flags=re.MULTILINE)
        if len(outputs) != len(commands) + 2:
            raise HostFailure(
                f"crash {self.version} "
                + (f"ended in `{commands[len(outputs) - 2]}`" if len(outputs) > 1 else f"does not open {dump.file}"),
                command=result.args,
                status=result.returncode,
                output=result.stdout,
            )
        return outputs[1:-1]


def parse_struct(text: str) -> Mapping[str, int]:
    """Return the members in the output of `struct NAME ADDRESS -x`: "lru.next" -> value, unions' one beside the other.

    Raises:
        ValueError: it is not such an output.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) < 2 or not re.fullmatch(r"(struct|union) \w+ \{", lines[0]) or lines[-1] != "}":
        raise ValueError(f"not a structure: {text[:200]!r}")
    found: dict[str, int] = {}
    path: list[str] = []
    for line in lines[1:-1]:
        if value := _VALUE.fullmatch(line):
            found[".".join([*path, value["name"]])] = int(value["value"], 16)
        elif begin := _BEGIN.fullmatch(line):
            path.append(begin["name"] or "")
        elif line in ("}", "},") and path:
            path.pop()
        else:
            raise ValueError(f"not a member: {line!r}")
    return {re.sub(r"(^|\.)\.+", r"\1", name): value for name, value in found.items()}


def parse_memory(text: str) -> bytes:
    """Return the bytes in the output of `rd -64`.

    Raises:
        ValueError: it is not such an output.
    """
    data = bytearray()
    for line in text.strip().splitlines():
        found = re.match(r"[0-9a-f]{16}:  ((?:[0-9a-f]{16} ){1,2})", line)
        if found is None:
            raise ValueError(f"not memory: {line!r}")
        for word in found[1].split():
            data += int(word, 16).to_bytes(8, "little")
    return bytes(data)
