from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests import cache
from vmtests.cases import history_repo
from vmtests.cases.history_repo import Change
from vmtests.errors import HostFailure
from vmtests.kernel.git import git

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fake_kernel.make(tmp_path / "tree")


def test_a_commit_for_each_change(tree: Path, tmp_path: Path) -> None:
    patch = fake_kernel.patch(tree, "lib/string.c", "int string;", "long string;", tmp_path / "a.patch")
    (tree / ".gitignore").write_text("*.patch\n")
    (tree / "ignored.patch").write_text("is source all the same\n")
    (tree / "mm/link").symlink_to("mm_init.c")
    (tree / "run").write_bytes(b"\xff\n")
    (tree / "run").chmod(0o755)
    changes = [
        Change("mm: widen page7", old="int page7;", new="long page7;"),
        Change("lib: widen", patch=patch),
    ]
    history = history_repo.make(tmp_path / "history", changes, tree=tree)
    assert len(history.commits) == 3
    log = git("log", "--reverse", "--format=%H %s", "main", cwd=history.folder).stdout.splitlines()
    assert log == [
        f"{history.commits[0]} Import the source",
        f"{history.commits[1]} mm: widen page7",
        f"{history.commits[2]} lib: widen",
    ]
    out = tmp_path / "out"
    git("clone", "--quiet", history.folder, out, cwd=tmp_path)
    assert (out / "mm/link").readlink() == Path("mm_init.c")
    assert (out / "run").read_bytes() == b"\xff\n"
    assert os.access(out / "run", os.X_OK)
    assert "long page7;" in (out / "mm/mm_init.c").read_text()
    assert "long string;" in (out / "lib/string.c").read_text()
    assert (out / "ignored.patch").exists()
    assert {path.name for path in out.iterdir()} - {".git"} == {path.name for path in tree.iterdir()}


def test_the_first_commit_is_made_once(tree: Path, tmp_path: Path) -> None:
    one, other = (history_repo.make(tmp_path / name, [], tree=tree) for name in ("one", "other"))
    assert one.commits == other.commits
    assert len(list((cache.root() / "histories").glob("[!.]*"))) == 1


def test_a_change_that_does_not_fit(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mm/mm_init\.c has 'int' 40 times"):
        history_repo.make(tmp_path / "one", [Change("mm: widen", old="int", new="long")], tree=tree)
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "long page7;", tmp_path / "a.patch")
    patch.write_text(patch.read_text().replace("int page7", "int page"))
    with pytest.raises(HostFailure, match="the change 'mm: widen' does not fit"):
        history_repo.make(tmp_path / "other", [Change("mm: widen", patch=patch)], tree=tree)
