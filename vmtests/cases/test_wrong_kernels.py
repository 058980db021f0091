"""Kernels that are wrong on purpose must turn the run red, and by the check that is named for them."""

import re
from dataclasses import replace

import pytest

from vmtests import data, kernel
from vmtests.errors import HostFailure, KernelFailure
from vmtests.kernel import Patch, Recipe
from vmtests.pmem import NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run

MUTANTS = data.folder("kernels") / "mutants"

#: What is wrong, and what the failure must say.
WRONG_MEMMAPS = {
    "m07-fsdax-refcount": r"1 wrong.*_refcount 1\b",
    "rebind-skips-half": r"bind 3\).*wrong",
    "padding-word": r"padding|memcg_data|_pp",
    "last-pageblock": r"1 wrong.*pageblock 1\b",
    "reserve-page": r"1 wrong",
    "every-page-wrong": r"flags",
}
DEADLY = {
    "panic-at-boot": r"[Pp]anic",
    "oops-in-bind": r"NULL pointer dereference",
}


def wrong_kernel(name: str) -> Recipe:
    """Return base, or our series where the mutant is one of the fast path, with the mutant's patch on top."""
    file = MUTANTS / f"{name}.patch"
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
@pytest.mark.parametrize("mutant", WRONG_MEMMAPS)
def test_wrong_memmap_is_caught(run: Run, mutant: str) -> None:
    """The check names the field that is wrong: after the first bind, after rebinds, or over poison."""
    run.add(wrong_kernel(mutant))
    with (
        run.bench(mutant, NamespaceSpec(), 0, pmem_size=4 << 30) as bench,
        pytest.raises(KernelFailure, match=f"(?s){WRONG_MEMMAPS[mutant]}"),
    ):
        procedure(bench)


@pytest.mark.full
@pytest.mark.parametrize("mutant", DEADLY)
def test_deadly_kernel_is_caught(run: Run, mutant: str) -> None:
    """A kernel that dies is the kernel's failure, with its last words, and not a lost connection."""
    run.add(wrong_kernel(mutant))
    with (
        pytest.raises(KernelFailure, match=f"(?s){DEADLY[mutant]}"),
        run.bench(mutant, NamespaceSpec(), 0, pmem_size=4 << 30) as bench,
    ):
        bench.create_namespace()


@pytest.mark.full
def test_hang_at_boot_is_caught(run: Run) -> None:
    """A kernel that hangs is called so when its console has been silent too long."""
    run.add(wrong_kernel("hang-at-boot"))
    with pytest.raises(KernelFailure, match=r"(?i)silen|hang"), run.guest("hang-at-boot", 0):
        pass


def test_a_patch_that_does_not_apply_is_named(run: Run) -> None:
    """The failure names the patch, the file and the hunk."""
    bad = replace(wrong_kernel("padding-word"), name="bad", patches=(Patch.read(MUTANTS / "padding-word.patch"),))
    run.add(bad)
    with pytest.raises(HostFailure, match=r"(?s)padding-word.*mm/mm_init\.c"):
        run.kernel("bad")
