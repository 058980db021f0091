"""What a user types goes to programs word by word: no shell ever reads it, whatever is in it."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fake_kernel
from tests.fake_boot import booting
from vmtests import kernel
from vmtests.errors import UsageError
from vmtests.run.options import Options
from vmtests.vmcore import how_to_open

#: Each of these would make a file in a shell, some of them between quotes as well.
WORD = "a b;touch hacked;$(touch hacked)`touch hacked`|touch hacked&'touch hacked'\"touch hacked\"\ntouch hacked"


@pytest.fixture(autouse=True)
def nothing_is_hacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("hacked"))


def test_paths_of_trees_patches_and_fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel is built from a tree that is called so, with a patch and a fragment that are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.import_module("vmtests.kernel.build"), "_ROOM", 0)
    folder = tmp_path / WORD.replace("\n", " ")  # git cannot borrow objects from a path of two lines
    folder.mkdir()
    tree = fake_kernel.make(folder / "tree")
    fake_kernel.commit(tree)
    fragment = folder / "base.config"
    fragment.write_text(fake_kernel.FRAGMENT)
    patch = fake_kernel.patch(tree, "lib/string.c", "int", "long", folder / "x.patch")
    recipe = kernel.Recipe(
        name="patch",
        series="7.3",
        source=f"{tree}@HEAD",
        fragments=(fragment,),
        patches=(kernel.Patch.read(patch),),
    )
    built = kernel.build(recipe)
    assert built.image.exists()
    assert str(tree) in built.source


def test_names_of_kernels() -> None:
    with pytest.raises(UsageError, match="is no name for a kernel"):
        Options(kernels=(WORD,)).check_kernels()
    with pytest.raises(UsageError, match="is no name for a kernel"):
        Options(kernels=("../up",)).check_kernels()


def test_words_for_the_kernel_and_the_guest(tmp_path: Path) -> None:
    """The kernel's command line, QEMU's as a script, and a command in the guest have the word as it is."""
    with booting(tmp_path) as start, start(WORD) as guest:
        assert guest.run(["printf", "%s", WORD]).stdout == WORD
        assert guest.argv[guest.argv.index("-append") + 1].endswith(WORD)
        script = (guest.evidence / "argv.sh").read_text().partition("exec ")[2].replace(" \\\n", " ")
        words = shlex.split(script)
        assert words[words.index("-append") + 1].endswith(WORD)
        path = str(tmp_path / "a;touch hacked")
        guest.write(path, b"text")
        assert guest.read(path) == b"text"


def test_commands_that_are_shown_to_be_pasted(tmp_path: Path) -> None:
    file, vmlinux = tmp_path / WORD / "vmcore", tmp_path / WORD / "vmlinux"
    shown = [shlex.split(line) for line in how_to_open(file, vmlinux)]
    assert all(str(file) in words for words in shown)
    assert any(str(vmlinux) in words for words in shown)
