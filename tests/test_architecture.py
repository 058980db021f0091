"""The house as README.md draws it: each room is in its table, no files and no rooms import each other in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "vmtests").rglob("*.py")
}


def imported(name: str) -> set[str]:
    """Return the files that a file imports, those for its types alone too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative name"
            # What is named is a file of a folder, or what a file defines.
            files = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= files & FILES.keys() or {str(node.module)}
    return found & FILES.keys()


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the first circle of a graph, [] if it has none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def room(name: str) -> str:
    """Return the room of a file: "kernel" for vmtests.kernel.build, "cache" for vmtests.cache."""
    return name.split(".")[1] if "." in name else ""


def test_no_files_import_each_other() -> None:
    assert not circle({name: imported(name) - {name} for name in FILES})


def test_no_rooms_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for name in FILES:
        graph.setdefault(room(name), set()).update({room(other) for other in imported(name)} - {room(name)})
    assert not circle(graph)


@pytest.mark.parametrize(
    "order", [("kernel", "guest", "pmem", "memmap", "run"), ("record", "report"), ("host", "guest")]
)
def test_data_goes_to_the_right(order: tuple[str, ...]) -> None:
    """As in the picture, whose other arrows the rooms' names do not say."""
    for name in FILES:
        if room(name) in order:
            right = set(order[order.index(room(name)) + 1 :])
            assert not {room(other) for other in imported(name)} & right, name


def rooms_of_the_table() -> Iterator[str]:
    """Yield what stands in the first column of README.md's table of folders: "vmtests/host/", "command.py"."""
    section = (ROOT / "README.md").read_text().partition("\n## Architecture\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield from re.findall(r"`([^`]+)`", line.split("|")[1])


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in (ROOT / "vmtests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.name for path in (ROOT / "vmtests").glob("*.py")} - {"__init__.py", "plugin.py"}
    named = [Path(name) for name in rooms_of_the_table()]
    assert rooms == {path.name for path in named if path.parent.name == "vmtests" and not path.suffix}
    assert files == {path.name for path in named if path.suffix}
