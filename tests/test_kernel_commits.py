from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests import cache
from vmtests.kernel import commits
from vmtests.kernel.commits import Commits

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = fake_kernel.make(tmp_path / "tree")
    fake_kernel.commit(tree)
    return tree


def unpacked(ours: Commits, commit: str) -> Path:
    return cache.entry("sources", f"git-{commit}", lambda to: ours.unpack(commit, to))


def content(tree: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for place, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name != ".git"]
        assert files or folders, f"{place} is empty, as git has no folder"
        for path in (Path(place, name) for name in files):
            data = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(tree))] = (path.lstat().st_mode & 0o100, data)
    return found


def test_a_commit_shares_what_another_has(tree: Path) -> None:
    (tree / "doc/deep").mkdir(parents=True)
    for name in ("doc/deep/one", "doc/becomes-a-folder", "doc/changes-its-mode", "doc/becomes-a-link"):
        (tree / name).write_text(f"{name}\n")
    first = fake_kernel.commit(tree)
    before = content(tree)
    (tree / "doc/deep/one").unlink()
    (tree / "doc/deep").rmdir()
    (tree / "doc/deep").write_text("a file now\n")
    (tree / "doc/becomes-a-folder").unlink()
    (tree / "doc/becomes-a-folder").mkdir()
    (tree / "doc/becomes-a-folder/two").write_text("new\n")
    (tree / "doc/changes-its-mode").chmod(0o755)
    (tree / "doc/becomes-a-link").unlink()
    (tree / "doc/becomes-a-link").symlink_to("changes-its-mode")
    (tree / "mm/mm_init.c").write_text("int changed;\n")
    second = fake_kernel.commit(tree)

    ours = Commits.of(tree)
    one, other = unpacked(ours, first), unpacked(ours, second)
    assert content(one) == before
    assert content(other) == content(tree)
    assert (other / "lib/string.c").samefile(one / "lib/string.c")
    assert not (other / "mm/mm_init.c").samefile(one / "mm/mm_init.c")
    times = {(other / name).lstat().st_mtime for name in content(other)} | {
        (one / name).lstat().st_mtime for name in content(one)
    }
    assert len(times) == 1


def test_the_nearest_of_several_is_taken(tree: Path) -> None:
    shas = [fake_kernel.git(tree, "rev-parse", "HEAD")]
    for number, names in enumerate((("one", "two", "string"), ("string",)), 1):
        for name in names:
            (tree / f"lib/{name}.c").write_text(f"int {name}{number};\n")
        shas.append(fake_kernel.commit(tree))
    ours = Commits.of(tree)
    first, last = unpacked(ours, shas[0]), unpacked(ours, shas[2])
    assert ours.changed(shas[0], shas[1]) == ["lib/one.c", "lib/string.c", "lib/two.c"]
    os.utime(last, (0, 0))  # it was not used last, but it is the nearest
    middle = unpacked(ours, shas[1])
    assert not (first / "lib/one.c").exists()
    assert (middle / "lib/one.c").samefile(last / "lib/one.c")


def test_other_attributes_share_nothing(tree: Path) -> None:
    first = fake_kernel.git(tree, "rev-parse", "HEAD")
    (tree / ".gitattributes").write_text("*.c text eol=crlf\n")
    second = fake_kernel.commit(tree)
    ours = Commits.of(tree)
    unpacked(ours, first)
    assert b"\r\n" in (unpacked(ours, second) / "lib/string.c").read_bytes()


def test_another_repository_is_not_known(tree: Path, tmp_path: Path) -> None:
    other = fake_kernel.make(tmp_path / "other")
    (other / "README").write_text("other\n")
    commit = fake_kernel.commit(other)
    ours = Commits.of(tree)
    assert ours.changed(commit, fake_kernel.git(tree, "rev-parse", "HEAD")) is None
    assert commits.commit_of(tree, commit) is None
    assert commits.commit_of(tree, "--help") is None
