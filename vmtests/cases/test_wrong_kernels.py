"""Patches of a user's that are wrong: in what they do, where they go, or already for the compiler.

Two mistakes of test_mutants.py are built alone here, to see that the one kernel that carries all of them hides nothing.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from vmtests import kernel
from vmtests.errors import HostFailure, KernelFailure
from vmtests.kernel import Patch, Recipe
from vmtests.kernel.mutants import folder
from vmtests.pmem import NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run

#: What is wrong, and what the failure must say.
WRONG_MEMMAPS = {
    "m07-fsdax-refcount": r"1 wrong.*_refcount 1\b",
    "padding-word": r"padding|memcg_data|_pp",
}


def wrong_kernel(name: str) -> Recipe:
    """Return base, or our series where the patch is one of the fast path, with the patch on top."""
    file = folder() / f"{name}.patch"
    over = re.search(r"^Applies over: (\w+)", file.read_text(), re.MULTILINE)
    assert over is not None, f"{file} does not say what it applies over"
    below = kernel.load("base" if over[1] == "base" else "patched")
    return replace(below, name=name, patches=(*below.patches, Patch.read(file)))


def procedure(bench: Bench) -> None:
    """The published procedure in small."""
    bench.check_memmap(bench.create_namespace())
    bench.check_memmap(bench.rebind(2)[-1])
    bench.check_memmap(bench.rebind_over_poison(3))


@pytest.mark.full
@pytest.mark.parametrize("patch", WRONG_MEMMAPS)
def test_wrong_memmap_is_caught(run: Run, patch: str) -> None:
    """The check names the field that is wrong: after the first bind, after rebinds, or over poison."""
    run.add(wrong_kernel(patch))
    with (
        run.bench(patch, NamespaceSpec(), 0, pmem_size=4 << 30) as bench,
        pytest.raises(KernelFailure, match=f"(?s){WRONG_MEMMAPS[patch]}"),
    ):
        procedure(bench)


def test_a_patch_that_does_not_apply_is_named(run: Run) -> None:
    """The failure names the patch, the file and the hunk."""
    bad = replace(wrong_kernel("padding-word"), name="bad", patches=(Patch.read(folder() / "padding-word.patch"),))
    run.add(bad)
    with pytest.raises(HostFailure, match=r"(?s)padding-word.*mm/mm_init\.c"):
        run.kernel("bad")


@pytest.mark.full
def test_a_patch_that_does_not_compile_is_named(run: Run, tmp_path: Path) -> None:
    """It is the host's failure, with the compiler's words, and no kernel's: nothing was caught."""
    text = (folder() / "padding-word.patch").read_text()
    broken = tmp_path / "broken.patch"
    broken.write_text(text.replace("sizeof(unsigned long) - 1]", "sizeof(unsigned lung) - 1]"))
    assert broken.read_text() != text
    series = kernel.load("patched")
    run.add(replace(series, name="broken", patches=(*series.patches, Patch.read(broken))))
    with pytest.raises(HostFailure, match=r"(?s)building kernel broken failed.*mm_init\.c.*lung"):
        run.kernel("broken")
