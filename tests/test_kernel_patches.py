from __future__ import annotations

from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel import patches
from vmtests.kernel.patches import Patch


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return fake_kernel.make(tmp_path / "tree")


def make(tree: Path, old: str, new: str, file: str = "mm/mm_init.c") -> Patch:
    return Patch.read(fake_kernel.patch(tree, file, old, new, tree.parent / "0001-change.patch"))


def test_a_changed_file_is_a_new_file(tree: Path, tmp_path: Path) -> None:
    link = tmp_path / "pristine.c"
    link.hardlink_to(tree / "mm/mm_init.c")
    patches.apply(make(tree, "int page7;", "long page7;"), tree, source="7.3")
    assert "long page7;" in (tree / "mm/mm_init.c").read_text()
    assert "long page7;" not in link.read_text()


def test_lines_may_have_moved(tree: Path) -> None:
    patch = make(tree, "int page7;", "long page7;")
    file = tree / "mm/mm_init.c"
    file.write_text("int before;\n" * 9 + file.read_text())
    patches.apply(patch, tree, source="7.3")
    assert "long page7;" in file.read_text()


def test_failure_names_patch_hunk_and_file(tree: Path) -> None:
    file = tree / "mm/mm_init.c"
    text = file.read_text()
    both = text.replace("int page3;", "long page3;").replace("int page33;", "long page33;")
    patch = make(tree, text, both)
    file.write_text(text.replace("int page34;", "int other;"))  # the context of the second hunk
    with pytest.raises(HostFailure) as failure:
        patches.apply(patch, tree, source="linux-source-7.3 7.3.9")
    assert "0001-change.patch does not apply to linux-source-7.3 7.3.9" in failure.value.message
    assert "hunk 2 of mm/mm_init.c (@@ -31,7 +31,7 @@; line 13 of the patch)" in failure.value.message
    assert "hunk 1" not in failure.value.message
    assert "long page3;" not in file.read_text()  # all or nothing


def test_context_must_match_to_the_blank(tree: Path) -> None:
    patch = make(tree, "int page7;", "long page7;")
    file = tree / "mm/mm_init.c"
    file.write_text(file.read_text().replace("int page6;", "int  page6;"))
    with pytest.raises(HostFailure, match=r"hunk 1 of mm/mm_init\.c"):
        patches.apply(patch, tree, source="7.3")


def test_a_change_that_is_there_already_is_called_so(tree: Path) -> None:
    patch = make(tree, "int page7;", "long page7;")
    patches.apply(patch, tree, source="7.3")
    with pytest.raises(HostFailure, match="the source has this change already"):
        patches.apply(patch, tree, source="7.3")


def test_a_missing_file_is_named(tree: Path) -> None:
    patch = make(tree, "int string;", "long string;", "lib/string.c")
    (tree / "lib/string.c").unlink()
    with pytest.raises(HostFailure, match=r"lib/string.c: No such file"):
        patches.apply(patch, tree, source="7.3")


def test_not_a_patch(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see\n")
    with pytest.raises(HostFailure, match=r"notes.txt does not apply"):
        patches.apply(Patch.read(tmp_path / "notes.txt"), tree, source="7.3")


def test_a_repository_around_the_tree_does_not_matter(tmp_path: Path) -> None:
    tree = fake_kernel.make(tmp_path / "around/cache/tree")
    patch = make(tree, "int page7;", "long page7;")
    fake_kernel.commit(tmp_path / "around")
    patches.apply(patch, tree, source="7.3")
    assert "long page7;" in (tree / "mm/mm_init.c").read_text()


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing.patch cannot be read: No such file"):
        Patch.read(tmp_path / "missing.patch")


def test_files(tree: Path) -> None:
    assert make(tree, "int string;", "long string;", "lib/string.c").files() == ["lib/string.c"]
