"""The commands that README.md and the pages in docs/ tell a reader to type, and what else is indented there as code.

A line of an indented block is a command when the block begins with one; behind two spaces it is explained. In a block
that begins with `$ ` only lines with that prompt are commands, the others are what they print. `>>> ` is typed in drgn,
`crash> ` in crash. All other blocks are output, files or pictures. Besides, what stands in backticks in the text and
begins with a program of ours is a command.
"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Of a checkout; an installed vmtests has none.
PAGES = tuple(path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists())

#: The programs that pages tell to type.
PROGRAMS = ("vmtests", "pytest", "tox", "pipx", "apt-get", "pip", "git", "drgn", "python", "sudo")
#: Those whose name in backticks begins a command.
OURS = ("vmtests", "pytest", "tox")
PROMPTS = ("$ ", ">>> ", "crash> ")

_ASSIGNMENT = re.compile(r"^[A-Z_]+=\S*$")


@dataclass(frozen=True)
class Command:
    """One command: `text` as a shell takes it, from a page and a line of it; `inline`: out of the text."""

    page: str
    line: int
    text: str
    inline: bool = False

    @property
    def words(self) -> list[str]:
        """Its words, without the assignments before it and without `pipx run`."""
        words = shlex.split(self.text, comments=True)
        while words and _ASSIGNMENT.match(words[0]):
            del words[0]
        return words[2:] if words[:2] == ["pipx", "run"] else words

    @property
    def program(self) -> str:
        """What it runs."""
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Block:
    """Lines that are indented as code, by their number."""

    page: str
    lines: dict[int, str]

    @property
    def first(self) -> str:
        return next(iter(self.lines.values()))

    def commands(self) -> Iterator[Command]:
        """Yield what is to be typed in it, each part of `A && B` on its own."""
        prompt = next((one for one in PROMPTS if self.first.startswith(one)), "")
        if prompt not in ("", "$ ") or not (prompt or _begins(self.first)):
            return
        for number, line in self.lines.items():
            if line.startswith(prompt):
                typed = re.split(r"\s{2,}", line.removeprefix(prompt).strip())[0]
                for part in typed.split(" && "):
                    yield Command(self.page, number, part)

    def others(self) -> Iterator[str]:
        """Yield the lines that are not to be typed, if it is a block of these."""
        if not _begins(self.first) and not self.first.startswith(PROMPTS):
            yield from self.lines.values()


def _begins(line: str) -> bool:
    """Return whether a line begins with one of the programs."""
    words = [word for word in line.split() if not _ASSIGNMENT.match(word)]
    return bool(words) and words[0] in PROGRAMS


def blocks(path: Path) -> Iterator[Block]:
    """Yield the indented blocks of a page."""
    name, lines = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8").splitlines()
    found: dict[int, str] = {}
    for number, line in enumerate([*lines, "end"], start=1):
        if line.startswith("    ") and not re.match(r"\s*([-*|]|\d+\.) ", line):
            found[number] = line[4:]
        elif found:
            yield Block(name, found)
            found = {}


def commands(path: Path) -> Iterator[Command]:
    """Yield every command of a page, in its order."""
    name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    found = [command for block in blocks(path) for command in block.commands()]
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    for span in re.finditer(rf"`((?:{'|'.join(OURS)}) [^`]+)`", prose):
        line = prose.count("\n", 0, span.start()) + 1
        found.append(Command(name, line, " ".join(span[1].split()), inline=True))
    yield from sorted(found, key=lambda command: command.line)


def pytest_words(command: Command) -> list[str]:
    """Return what pytest gets from a command, through the environment of tox if it is one for tox."""
    if command.program == "pytest":
        return command.words[1:]
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    words = command.words
    mine, given = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    environments = mine[mine.index("-e") + 1].split(",") if "-e" in mine else tox["tox"]["env_list"].split(", ")
    found: list[str] = []
    for name in environments:
        if f"testenv:{name}" not in tox:
            raise ValueError(f"{command}: tox.ini has no environment {name}")
        line = next((one for one in tox[f"testenv:{name}"]["commands"].splitlines() if one.startswith("pytest")), "")
        default = re.search(r"\{posargs(?::([^}]*))?\}", line)
        found = shlex.split(line.partition("{")[0])[1:] + (given or shlex.split((default and default[1]) or ""))
    return found
