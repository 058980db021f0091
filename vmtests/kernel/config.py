"""A kernel's config: what is asked for, what Kconfig makes of it, and whether all that was asked for is in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import UsageError
from vmtests.kernel.make import Make
from vmtests.kernel.recipe import Recipe

_LINE = re.compile(
    r"(?P<set>CONFIG_\w+)=(?P<value>y|m|n|-?\d+|0x[0-9a-fA-F]+|\".*\")|# (?P<unset>CONFIG_\w+) is not set"
)


@dataclass(frozen=True)
class Line:
    """One line of a fragment."""

    symbol: str
    # As it stands in a .config; "n" for what is not set.
    value: str
    # File and line.
    where: str

    def __str__(self) -> str:
        return f"# {self.symbol} is not set" if self.value == "n" else f"{self.symbol}={self.value}"


@dataclass(frozen=True)
class Request:
    """What a recipe asks of Kconfig."""

    # A whole config to start from; None is tinyconfig.
    start: str | None
    # Put on top of it; no symbol twice.
    lines: tuple[Line, ...]
    # Of these and of the start, what must come out as asked.
    checked: tuple[Line, ...]
    # Of these, what the start has not so: it was added because the tests need it.
    added: tuple[Line, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> Request:
        """Read a recipe's files; UsageError for a line that is none of a config."""
        start = recipe.config.read_text(errors="replace") if recipe.config else None
        lines = [line for path in recipe.fragments for line in parse(path)]
        checked: list[Line] = []
        added: list[Line] = []
        if recipe.config and start is not None:
            # What the recipe switches on is needed, what it switches off only saves time.
            lines = [line for line in lines if line.value == "y"]
            has = _values(start)
            added = [line for line in lines if has.get(line.symbol) != line.value]
            # A whole .config may be of another version, whose options come and go; a few lines are meant.
            if "Automatically generated file; DO NOT EDIT." not in start:
                checked += parse(recipe.config)
        lines += [line for path in recipe.extra_fragments for line in parse(path)]
        return cls(start, _last(lines), _last([*checked, *lines]), _last(added))

    def digest(self) -> str:
        """Return a name for it that comments and the order of its lines do not change."""
        text = "\n".join(sorted(map(str, self.lines)))
        return hashlib.sha256(f"{self.start}\0{text}".encode()).hexdigest()


def parse(path: Path) -> list[Line]:
    """Return the lines of a fragment; UsageError for one that is no line of a config."""
    lines = []
    for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
        found = _LINE.fullmatch(text.rstrip())
        if found:
            lines.append(Line(found["set"] or found["unset"], found["value"] or "n", f"{path}:{number}"))
        elif text.strip() and not text.startswith("#"):
            raise UsageError(f"{path}:{number}: {text.strip()!r} is no line of a config, such as CONFIG_NUMA=y")
    return lines


def values(config: Path) -> dict[str, str]:
    """Return what a .config sets: "CONFIG_X" to its value as it stands there; absent is not set."""
    return _values(config.read_text())


def _values(text: str) -> dict[str, str]:
    found = (_LINE.fullmatch(line.rstrip()) for line in text.splitlines())
    return {match["set"]: match["value"] for match in found if match and match["set"] and match["value"] != "n"}


def write(request: Request, make: Make) -> Path:
    """Have Kconfig make `.config` in the build folder; nothing is checked yet."""
    config = make.build / ".config"
    if request.start is None:
        make("tinyconfig", what="configuring the kernel failed")
    else:
        make.build.mkdir(exist_ok=True)
        config.write_text(request.start)
    with config.open("a") as handle:
        handle.writelines(f"{line}\n" for line in request.lines)
    make("olddefconfig", what="configuring the kernel failed")
    return config


def lost(request: Request, config: Path) -> list[Line]:
    """Return the lines that were asked for and are not in the config."""
    got = values(config)
    return [line for line in request.checked if got.get(line.symbol, "n") != line.value]


def explain(lines: Iterable[Line], config: Path, tree: Path) -> str:
    """Say of each lost line what came instead and why, a line each."""
    got = values(config)
    names = {line: line.symbol.removeprefix("CONFIG_") for line in lines}
    reasons = _reasons(set(names.values()), tree, got)
    return "\n".join(
        f"    {line} ({line.where}): it is {got.get(line.symbol, 'not set')}; {reasons[name]}"
        for line, name in names.items()
    )


def _last(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Keep of each symbol the line that comes last."""
    return tuple({line.symbol: line for line in lines}.values())


@dataclass
class _Definition:
    """A place where Kconfig defines a symbol."""

    place: str
    conditions: list[str]
    prompt: bool = False
    # Of a number, such as "range 1 10".
    limits: str = ""


def _reasons(symbols: set[str], tree: Path, got: Mapping[str, str]) -> dict[str, str]:
    """Say of each symbol why it may not be as asked, from the Kconfig files of the tree."""
    definitions: dict[str, list[_Definition]] = {symbol: [] for symbol in symbols}
    for path in tree.rglob("Kconfig*"):
        place = path.relative_to(tree)
        if path.is_file() and (place.parts[0] != "arch" or place.parts[1] in ("Kconfig", "x86")):
            _scan(path.read_text(errors="replace"), str(place), definitions)
    return {symbol: _reason(found, got) for symbol, found in definitions.items()}


def _reason(definitions: list[_Definition], got: Mapping[str, str]) -> str:
    if not definitions:
        return "this source has no such option"
    texts = []
    for found in definitions:
        names = dict.fromkeys(re.findall(r"(?<!!)\b[A-Z][A-Z0-9_]+\b", " ".join(found.conditions)))
        off = [name for name in names if f"CONFIG_{name}" not in got]
        reasons = [f"depends on {' && '.join(f'({text})' for text in found.conditions)}"] if found.conditions else []
        if off:
            reasons.append(f"not set: {', '.join(off)}")
        elif not found.prompt:
            reasons.append("it has no prompt, other options decide it")
        if found.limits:
            reasons.append(found.limits)
        texts.append(f"{found.place}: {', '.join(reasons) or 'other options decide it'}")
    return "; ".join(texts)


def _scan(text: str, place: str, definitions: dict[str, list[_Definition]]) -> None:
    """Collect where the symbols that `definitions` asks for are defined."""
    blocks: list[str] = []  # the conditions of the "if"s that are open
    current: _Definition | None = None
    for number, words in _statements(text):
        if words[0] in ("config", "menuconfig") and len(words) == 2:
            current = None
            if words[1] in definitions:
                current = _Definition(f"{place}:{number}", list(blocks))
                definitions[words[1]].append(current)
        elif words[0] == "if":
            blocks.append(" ".join(words[1:]))
        elif words[0] == "endif" and blocks:
            blocks.pop()
        elif words[0] in ("choice", "endchoice", "menu", "endmenu", "source", "comment"):
            current = None
        elif current is not None:
            if words[:2] == ["depends", "on"]:
                current.conditions.append(" ".join(words[2:]))
            elif words[0] in ("bool", "tristate", "int", "hex", "string", "prompt") and len(words) > 1:
                current.prompt = True
            elif words[0] == "range":
                current.limits = " ".join(words)


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each line of a Kconfig file that is no help text."""
    margin: int | None = None  # of the help text that we are in; -1 before its first line
    for number, line in enumerate(text.replace("\\\n", " ").expandtabs().splitlines(), 1):
        indent = len(line) - len(line.lstrip())
        if margin == -1 and line.strip():
            margin = indent
        if not line.strip() or (margin is not None and indent >= margin):
            continue
        margin = None
        words = line.split("#")[0].split()
        if words == ["help"]:
            margin = -1
        elif words:
            yield number, words
