from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests import cache
from vmtests.errors import UsageError
from vmtests.kernel import patches, source

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fake_kernel.make(tmp_path / "my tree")


def everything(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return name, times and content of all that is in the folder, git's own files too."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.lstat().st_ctime_ns,
            hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None,
        )
        for path in sorted([folder, *folder.rglob("*")])
    }


def find(tree: Path, revision: str | None = None) -> source.Source:
    return source.find(f"{tree}@{revision}" if revision else str(tree), "7.3")


def dirty(tree: Path) -> None:
    """Do what a developer's day leaves in a tree."""
    (tree / "mm/mm_init.c").write_text((tree / "mm/mm_init.c").read_text().replace("page7", "page_seven"))
    (tree / "lib/string.c").unlink()
    (tree / "lib/new.c").write_bytes(b"int new; /* caf\xe9 */\r\n")
    (tree / "lib/data.bin").write_bytes(bytes(range(256)))
    (tree / "mm/mm_init.o").write_text("an object")
    (tree / ".config").write_text("CONFIG_TINY=y\n")
    (tree / "staged.c").write_text("int staged;\n")
    fake_kernel.git(tree, "add", "staged.c")


def test_a_commit_is_its_content(tree: Path) -> None:
    commit = fake_kernel.commit(tree)
    found = find(tree)
    assert (found.title, found.identity, found.diff) == (f"{tree} @ {commit[:12]}", f"commit {commit}", None)
    assert (found.tree() / "mm/mm_init.c").read_text() == (tree / "mm/mm_init.c").read_text()
    assert not (found.tree() / ".git").exists()


def test_edits_become_a_patch_that_makes_the_same_tree(tree: Path) -> None:
    commit = fake_kernel.commit(tree)
    dirty(tree)
    found = find(tree)
    assert found.title == f"{tree} @ {commit[:12]} (dirty)"
    assert found.identity == find(tree, "HEAD").identity
    assert find(tree, "HEAD").diff is None
    assert found.diff is not None
    pristine = found.tree()
    assert "page7" in (pristine / "mm/mm_init.c").read_text()
    patches.apply(found.diff, pristine, source=found.title)
    got = {str(path.relative_to(pristine)) for path in pristine.rglob("*") if path.is_file()}
    assert got == {*fake_kernel.git(tree, "ls-files").split(), "lib/new.c", "lib/data.bin"} - {"lib/string.c"}
    assert all((pristine / name).read_bytes() == (tree / name).read_bytes() for name in got)


def test_nothing_in_the_tree_changes(tree: Path) -> None:
    fake_kernel.commit(tree)
    dirty(tree)
    os.utime(tree / "Makefile")  # git would like to note in its index that the content is the same
    before = everything(tree)
    find(tree).tree()
    find(tree, "HEAD").tree()
    assert everything(tree) == before


def test_a_hook_s_environment_does_not_lead_astray(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = fake_kernel.commit(tree)
    other = fake_kernel.make(tmp_path / "other")
    (other / "README").write_text("another\n")
    fake_kernel.commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert find(tree).identity == f"commit {commit}"
    assert not (find(tree).tree() / "README").exists()


def test_revisions(tree: Path) -> None:
    first = fake_kernel.commit(tree)
    (tree / "README").write_text("second\n")
    second = fake_kernel.commit(tree)
    dirty(tree)
    assert find(tree, "HEAD~1").identity == f"commit {first}"
    assert find(tree, second[:8]).identity == f"commit {second}"
    assert find(tree, "HEAD@{1}").identity == f"commit {first}"
    with pytest.raises(UsageError, match="has no revision 'v9'"):
        find(tree, "v9")
    with pytest.raises(UsageError, match="has no revision '--all'"):
        find(tree, "--all")


def test_worktrees_bare_and_shallow_clones(tree: Path, tmp_path: Path) -> None:
    first = fake_kernel.commit(tree)
    fake_kernel.git(tree, "worktree", "add", "--quiet", "--detach", str(tmp_path / "worktree"))
    fake_kernel.git(tree, "clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    fake_kernel.git(tree, "clone", "--quiet", "--depth=1", f"file://{tree}", str(tmp_path / "shallow"))
    for name in ("worktree", "bare", "shallow"):
        found = find(tmp_path / name)
        assert (name, found.identity, found.diff) == (name, f"commit {first}", None)
        shutil.rmtree(cache.root() / "sources", ignore_errors=True)
        assert (found.tree() / "mm/mm_init.c").exists()


def test_much_that_git_does_not_know_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kernel.commit(tree)
    (tree / "huge.o").write_bytes(bytes(3 << 20))
    monkeypatch.setattr(source, "_UNTRACKED_LIMIT", 2 << 20)
    assert find(tree).diff is None  # git is told to ignore objects
    (tree / "vmcore").write_bytes(bytes(3 << 20))
    with pytest.raises(UsageError, match="3 MiB of untracked files, the largest is vmcore"):
        find(tree)
    assert find(tree, "HEAD").diff is None


def test_a_plain_tree_is_its_content_without_products(tree: Path) -> None:
    (tree / "tools/vmlinux").mkdir(parents=True)
    (tree / "tools/vmlinux/vmlinux.h").write_text("a source in a folder that is called as a product\n")
    first = find(tree)
    assert first.identity.startswith("content ")
    for product in ("mm/mm_init.o", ".config", "vmlinux"):
        (tree / product).write_text("built")
    before = everything(tree)
    built = find(tree)
    assert built.identity == first.identity
    assert built.title.startswith(f"{tree} @ content ")
    assert {str(path.relative_to(built.tree())) for path in built.tree().rglob("*.[cho]")} == {
        "mm/mm_init.c",
        "lib/string.c",
        "tools/vmlinux/vmlinux.h",
    }
    assert everything(tree) == before
    (tree / "mm/mm_init.c").write_text("int other;\n")
    assert find(tree).identity != first.identity


def test_a_plain_tree_in_a_repository_is_plain(tmp_path: Path) -> None:
    tree = fake_kernel.make(tmp_path / "home/linux")
    fake_kernel.commit(tmp_path / "home")
    assert find(tree).identity.startswith("content ")
    with pytest.raises(UsageError, match="is no git tree to have 'HEAD'"):
        find(tree, "HEAD")


def test_what_is_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with pytest.raises(UsageError, match="home is no kernel tree: it has no Makefile"):
        find(tmp_path / "home")
    (tmp_path / "home/Makefile").write_text("all:\n")
    commit = fake_kernel.commit(tmp_path / "home")
    with pytest.raises(UsageError, match=f"home at {commit[:12]} is no kernel tree: it has no Kconfig"):
        find(tmp_path / "home")
    with pytest.raises(UsageError, match="there is no kernel tree"):
        find(tmp_path / "gone")


def test_debian_s_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = cache.root() / "sources/linux-source-7.3.json"
    kept.parent.mkdir()
    kept.write_text('{"name": "linux-source-7.3", "version": "7.3.4-1", "suite": "sid"}')
    monkeypatch.setattr(source, "Archive", None)  # which nobody asks then
    found = source.find("debian", "7.3")
    assert (found.title, found.identity) == ("linux-source-7.3 7.3.4-1", "linux-source-7.3=7.3.4-1")
