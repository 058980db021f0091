"""Kernels that are wrong on purpose: each must be caught by the check that kernels/mutants/mutants.toml names for it.

One kernel carries them all, a boot parameter picks one: a boot each. The same kernel without it passes every check.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from vmtests.cases.test_accounting import count_memmap_pages
from vmtests.cases.test_odd_ranges import BOOT_DIMM, DEVICE_MEMORY
from vmtests.cases.test_tracepoint import count_events, toggle_during_binds
from vmtests.cases.test_use import install, see_no_complaints, see_what_is_left, use
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest
from vmtests.kernel import mutants
from vmtests.kernel.mutants import PARAMETER, SAID, UNKNOWN, Mutant
from vmtests.memmap.difference import Digest, compare
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.record import BindEntry
from vmtests.run.bench import Bench
from vmtests.run.run import Run
from vmtests.timing import verdict

MIB, GIB = 1 << 20, 1 << 30
BY_ID = {kind.id: kind for kind in KINDS}

#: A check of one mutant, by its name, or of the kernel without it (None).
Look = Callable[[str | None, Mutant], None]


def kind_of(mutant: Mutant) -> NamespaceSpec:
    """Return the kind of namespace that shows the mutant; where it has neighbours, of a size that leaves room."""
    kind = BY_ID[mutant.kind]
    size = 512 * MIB if mutant.place in ("in-turn", "before-another", "at-once") else None
    return NamespaceSpec(kind.mode, kind.map, kind.align_bytes, size)


def kernel_of(run: Run, mutant: Mutant | None = None) -> str:
    """Let the kernel of a mutant be used, and return its name."""
    recipe = mutants.recipe(over=mutant.kernel if mutant else mutants.SERIES)
    run.add(recipe)
    return recipe.name


@contextmanager
def mutated(run: Run, name: str | None, mutant: Mutant, *, clock: str = "wall") -> Iterator[Bench]:
    """Boot the mutants' kernel as the mutant of this name, or as none, with an NVDIMM large enough to show it."""
    kind = kind_of(mutant)
    nodes, beside = mutant.place == "node-1", mutant.place == "beside-boot"
    words = [
        *([f"{PARAMETER}={name}"] if name else []),
        *(["maxcpus=1"] if nodes else []),
        *([f"memmap={BOOT_DIMM}@{DEVICE_MEMORY}"] if beside else []),
    ]
    with run.bench(
        kernel_of(run, mutant),
        kind,
        0,
        pmem_size=4 * GIB if kind.align_bytes == GIB else GIB,
        clock=clock,
        append=words,
        nodes=2 if nodes else 1,
        dimm_bytes=BOOT_DIMM if beside else 0,
    ) as bench:
        if name:
            confirm(bench.guest, name)
        yield bench


def confirm(guest: Guest, name: str) -> None:
    """See the kernel say which mutant it is: one that does not know the name is right, and would prove nothing.

    Raises:
        HostFailure: it does not know it, or is none of the mutants' kernels.
    """
    said = [line for line in guest.dmesg().splitlines() if "vmtests: " in line]
    if not any(line.endswith(SAID.format(name=name)) for line in said):
        raise HostFailure(
            f"kernel {guest.kernel.name} did not become mutant {name}: it must have kernels/mutants/all.patch, and the "
            "name must be in it",
            output="\n".join(said),
        )


def every_page(bench: Bench, place: str) -> None:
    """Look at every struct page: after the first bind, after a rebind, and after one over poison."""
    if place == "at-once":
        every_page_of_two_at_once(bench)
        return
    if place == "in-turn":
        bench.create_namespace()
    elif place == "before-another":
        make_room_before_another(bench)
    bench.check_memmap(bench.create_namespace())
    bench.check_memmap(bench.rebind(1)[-1])
    bench.check_memmap(bench.rebind_over_poison(2))


def make_room_before_another(bench: Bench) -> None:
    """Leave the region's first half free and a namespace of folios in the second, which is made behind another one."""
    spec = bench.spec
    bench.spec = NamespaceSpec("devdax", size_bytes=spec.size_bytes)
    bench.create_namespace()
    front = bench.namespace
    bench.create_namespace()
    bench.turn_to(front)
    bench.destroy_namespace()
    bench.spec = spec


def every_page_of_two_at_once(bench: Bench) -> None:
    """Look at every struct page of two namespaces that were bound by two tasks at the same time."""
    namespaces = []
    for _ in range(2):
        bench.create_namespace()
        namespaces.append(bench.namespace)
    together = bench.rebind_together(namespaces, 1)
    for namespace, bind in zip(namespaces, together.binds, strict=True):
        bench.turn_to(namespace)
        bench.check_memmap(bind)


def events(bench: Bench) -> None:
    """Count the event page_ref_set, and switch it on and off during binds."""
    toggle_during_binds(bench, count_events(bench, bench.create_namespace()))


def use_it(bench: Bench, map_file: bytes) -> None:
    """Use the namespace as an application does, without a look at its memmap before."""
    bind = bench.create_namespace()
    install(bench, map_file)
    use(bench, "write")
    see_no_complaints(bench)
    see_what_is_left(bench, bind)


def memmap_of(bench: Bench) -> Digest:
    """Return what a bind over poison leaves."""
    bench.create_namespace()
    rebind = bench.rebind_over_poison(1)
    return bench.oracle.digest(bench.namespace, rebind.truth)


def difference(run: Run, bench: Bench, digests: dict[str, Digest]) -> None:
    """Hold the memmap against that of the base kernel, which is read once for each kind."""
    kind = bench.spec
    ours = memmap_of(bench)
    if kind.id not in digests:
        with run.bench("base", kind, 0, pmem_size=bench.region.nvdimm.size_bytes) as base:
            digests[kind.id] = memmap_of(base)
    layout = bench.oracle.access.layout
    compare(digests[kind.id], ours, layout).verify(f"base and {bench.guest.kernel.name}, {kind.id}")


def count_instructions(run: Run, name: str | None, mutant: Mutant, counts: dict[str, list[BindEntry]]) -> None:
    """Count a bind's instructions, and hold them against those of the same kernel without the mutant."""
    right, other = "without a mutant", name or "without one again"

    def binds(name: str | None, called: str) -> list[BindEntry]:
        with mutated(run, name, mutant, clock="icount") as bench:
            bench.create_namespace()
            return [replace(bind.entry, kernel=called) for bind in bench.rebind(2)]

    if mutant.kind not in counts:
        counts[mutant.kind] = binds(None, right)
    both = [*counts[mutant.kind], *binds(name, other)]
    found = verdict.compare(both, right, other, mutant.kind, "icount", "rebind")
    assert found is not None, "both were bound twice"
    if found.verdict == "slower":
        raise KernelFailure(
            f"{other}, {mutant.kind}: more instructions, {found.patched_value:.2f} a page for {found.base_value:.2f}"
        )
    if found.verdict != "same":
        raise HostFailure(
            f"{other}, {mutant.kind}: {found.patched_value:.2f} instructions a page for {found.base_value:.2f}, "
            f"which is {found.verdict!r}: neither a catch nor a pass"
        )


def die(run: Run, name: str | None, mutant: Mutant) -> None:
    """Boot it and make a namespace, which one of the mutants that die does not live to see."""
    with mutated(run, name, mutant) as bench:
        bench.create_namespace()


@pytest.fixture(scope="module")
def looks(run: Run, map_file: bytes) -> dict[str, Look]:
    """The checks, by their letters."""
    digests: dict[str, Digest] = {}
    counts: dict[str, list[BindEntry]] = {}

    def on(step: Callable[[Bench, Mutant], None]) -> Look:
        def look(name: str | None, mutant: Mutant) -> None:
            with mutated(run, name, mutant) as bench:
                step(bench, mutant)

        return look

    return {
        "F": on(lambda bench, mutant: every_page(bench, mutant.place)),
        "P": on(lambda bench, mutant: every_page(bench, mutant.place)),
        "T": on(lambda bench, _: events(bench)),
        "U": on(lambda bench, _: use_it(bench, map_file)),
        "D": on(lambda bench, _: difference(run, bench, digests)),
        "V": on(lambda bench, _: count_memmap_pages(bench)),
        "L": lambda name, mutant: count_instructions(run, name, mutant, counts),
        "X": lambda name, mutant: die(run, name, mutant),
    }


@contextmanager
def caught(run: Run, mutant: Mutant, check: str) -> Iterator[None]:
    """See the check that the body does fail, and say what the table wants; keep the row for the mutants' table."""
    begun = time.monotonic()
    outcome = "not run"
    try:
        with pytest.raises(KernelFailure, match=f"(?sm){mutant.checks[check]}"):
            yield
        outcome = "caught"
    except (pytest.fail.Exception, AssertionError):  # what raises() says of no failure, and of one that says otherwise
        outcome = "SURVIVES"
        raise
    finally:
        keep(run, f"{mutant.id:10} {check}  {outcome:8} {time.monotonic() - begun:5.1f} s  {mutant.wrong}")


CAUGHT = [
    pytest.param(
        mutant,
        check,
        id=f"{mutant.id}-{check}",
        marks=() if mutant.quick and check == next(iter(mutant.checks)) else pytest.mark.full,
    )
    for mutant in mutants.table()
    for check in mutant.checks
    if mutant.alone is None
]


@pytest.mark.parametrize(("mutant", "check"), CAUGHT)
def test_mutant_is_caught(run: Run, looks: dict[str, Look], mutant: Mutant, check: str) -> None:
    """The check that is named for it fails, and says what is wrong."""
    run.kernel(kernel_of(run, mutant))
    with caught(run, mutant, check):
        looks[check](mutant.name, mutant)


#: What the kernel without its mutants must pass: each check with each kind of namespace and place that a mutant has.
RIGHT = {
    (check, mutant.kind, mutant.place, mutant.kernel): mutant
    for mutant in mutants.table()
    if mutant.alone is None
    for check in mutant.checks
    if check not in "PX"  # P is a part of F, and X needs nothing but to live
}
QUICK = ("F", "fsdax-dev", "alone", mutants.SERIES)


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        pytest.param(mutant, key[0], id="-".join(key), marks=() if key == QUICK else pytest.mark.full)
        for key, mutant in RIGHT.items()
    ],
)
def test_without_a_mutant_the_kernel_is_right(run: Run, looks: dict[str, Look], mutant: Mutant, check: str) -> None:
    """The same kernel and the same check, without the parameter."""
    run.kernel(kernel_of(run, mutant))
    begun = time.monotonic()
    looks[check](None, mutant)
    keep(run, f"{'none':10} {check}  passed   {time.monotonic() - begun:5.1f} s  {mutant.kind}")


def test_a_mutant_that_is_not_known_is_no_catch(run: Run) -> None:
    """The kernel says that it does not know it, and that ends the test as the host's failure."""
    with (
        pytest.raises(HostFailure, match=f"(?s)did not become mutant M99.*{UNKNOWN.format(name='M99')}"),
        run.guest(kernel_of(run), 0, append=[f"{PARAMETER}=M99"]) as guest,
    ):
        confirm(guest, "M99")


def keep(run: Run, line: str) -> None:
    """Say a line of the mutants' table, and keep it beside the record."""
    run.progress.say(f"  {line}")
    run.record.add_line("mutants", line)
