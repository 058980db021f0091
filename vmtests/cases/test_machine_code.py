"""What no reader of a memmap can see: drains of stores past the cache, and when the compiled fast path is taken."""

import pytest

from vmtests.cases.test_mutants import caught
from vmtests.errors import KernelFailure
from vmtests.kernel import Kernel, compile_object, mutants
from vmtests.kernel.machinecode import MachineCode, stores_past_the_cache
from vmtests.kernel.mutants import Mutant
from vmtests.run.run import Run

OBJECT = "mm/mm_init.o"

ALONE = [mutant for mutant in mutants.table() if mutant.alone is not None]


def read_code(built: Kernel) -> None:
    """See the fast path drain its stores, and be taken exactly while page_ref_set is not traced."""
    assert built.vmlinux is not None
    code = MachineCode(built.vmlinux)
    if undrained := code.undrained():
        raise KernelFailure(f"kernel {built.name}: stores past the cache are not drained", output="\n".join(undrained))
    if not code.copies("page_ref_set", enabled=False):
        raise KernelFailure(f"kernel {built.name} never gets to the stores past the cache while nothing is traced")
    if code.copies("page_ref_set", enabled=True):
        raise KernelFailure(f"kernel {built.name} gets to the stores past the cache while page_ref_set is traced")


def read_kasan_code(run: Run, patch: str | None) -> None:
    """See a KASAN build stay on the slow path."""
    with run.progress.task("one file under KASAN") as update:
        found = stores_past_the_cache(
            compile_object(mutants.recipe(patch, over="kasan"), OBJECT, progress=update),
        )
    if found:
        raise KernelFailure(f"{OBJECT} has {found} stores past the cache in a KASAN build")


def test_the_series_drains_and_follows_the_tracepoint(run: Run) -> None:
    """Each store past the cache is drained before what follows, and none is reached while page_ref_set is traced."""
    read_code(run.kernel("patched"))


@pytest.mark.full
@pytest.mark.parametrize("mutant", [pytest.param(one, id=one.id) for one in ALONE])
def test_mutants_in_the_machine_code(run: Run, mutant: Mutant) -> None:
    """Each built alone; the memmaps of all of them are right."""
    with caught(run, mutant, "S"):
        if "kasan" in str(mutant.alone):
            read_kasan_code(run, mutant.alone)
        else:
            built = mutants.recipe(str(mutant.alone))
            run.add(built)
            read_code(run.kernel(built.name))


@pytest.mark.full
def test_kasan_builds_stay_on_the_slow_path(run: Run) -> None:
    """KASAN instruments the slow path; KMSAN, which the same line rules out, needs clang."""
    read_kasan_code(run, None)


@pytest.mark.full
@pytest.mark.parametrize(("patch", "words"), [(None, 8), ("nine-words", 9), ("half-a-word", 0)])
def test_odd_sizes_of_struct_page(run: Run, patch: str | None, words: int) -> None:
    """The file compiles whatever the size is: whole words are all copied, and anything else is left alone."""
    with run.progress.task("one file with an odd struct page") as update:
        found = stores_past_the_cache(compile_object(mutants.recipe(patch), OBJECT, progress=update))
    if found != words:
        raise KernelFailure(f"{OBJECT} has {found} stores past the cache for a struct page, and must have {words}")
