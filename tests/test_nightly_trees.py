"""Refs become commits; a remote is fetched into the cache; the user's trees are only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmtests import cache
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel.git import git
from vmtests.nightly import trees
from vmtests.nightly.config import Tree

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A git tree with three commits."""
    folder = tmp_path / "tree"
    folder.mkdir()
    git("init", "--quiet", "--initial-branch=main", cwd=folder)
    for subject in ("one", "two", "three"):
        (folder / "file").write_text(subject)
        git("add", "file", cwd=folder)
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", subject, cwd=folder)
    return folder


def commit(folder: Path, name: str) -> str:
    return git("rev-parse", name, cwd=folder).stdout.strip()


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.mark.parametrize("ref", ["main", "main~1", "HEAD"])
def test_a_path(tree: Path, ref: str) -> None:
    before = content(tree)
    found = trees.resolve(Tree("mine", path=tree, ref=ref))
    assert found.commit == commit(tree, ref)
    assert found.option == f"mine={tree}@{found.commit}"
    assert content(tree) == before


def test_a_remote(tree: Path) -> None:
    """Fetched into a repository of our own; again when it has moved, back too."""
    remote = Tree("mine", remote=tree.as_uri(), ref="main")
    before = content(tree)
    found = trees.resolve(remote)
    assert found.commit == commit(tree, "main")
    assert found.folder is not None
    assert found.folder.is_relative_to(cache.root() / "remotes")
    assert content(tree) == before
    log = trees.between(found.folder, commit(tree, "main~2"), found.commit)
    assert [line.split()[1] for line in log] == ["three", "two"]
    git("update-ref", "refs/heads/main", commit(tree, "main~1"), cwd=tree)
    assert trees.resolve(remote).commit == commit(tree, "main")


def test_a_remote_of_which_one_commit_is_fetched(tree: Path) -> None:
    found = trees.resolve(Tree("mine", remote=tree.as_uri(), ref="main", depth=1))
    assert found.commit == commit(tree, "main")
    assert trees.between(found.folder, commit(tree, "main~2"), found.commit) == []


def test_what_is_not_there(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tree mine: .* is no git tree with a gone"):
        trees.resolve(Tree("mine", path=tree, ref="gone"))
    with pytest.raises(UsageError, match="tree mine: there is no folder"):
        trees.resolve(Tree("mine", path=tmp_path / "nowhere", ref="main"))
    with pytest.raises(UsageError, match="tree mine: .* has no gone: name a branch or tag"):
        trees.resolve(Tree("mine", remote=tree.as_uri(), ref="gone"))
    with pytest.raises(HostFailure, match=r"tree mine: fetching main of file:.* failed"):
        trees.resolve(Tree("mine", remote=(tmp_path / "nowhere").as_uri(), ref="main"))
    with pytest.raises(UsageError, match="tree mine: there is no such recipe; there are base"):
        trees.resolve(Tree("mine"))
