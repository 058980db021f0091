"""Namespaces of odd sizes and places, two in one region, and one on another NUMA node than the CPU that binds it."""

import pytest

from vmtests.errors import HostFailure, KernelFailure
from vmtests.pmem import NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SECTION = 128 * MIB

FSDAX = [NamespaceSpec("fsdax", where) for where in ("dev", "mem")]
FOLIOS = [NamespaceSpec("devdax", where, 2 * MIB) for where in ("dev", "mem")]


def sized(kind: NamespaceSpec, size_bytes: int) -> NamespaceSpec:
    """Return a namespace of this kind with a size of its own."""
    return NamespaceSpec(kind.mode, kind.map, kind.align_bytes, size_bytes)


def bind_and_check(bench: Bench) -> None:
    """Make the namespace, bind it again over poison, and look at every struct page after both binds."""
    bench.check_memmap(bench.create_namespace())
    bench.check_memmap(bench.rebind_over_poison(1))


@pytest.mark.full
@pytest.mark.parametrize("kind", [*FSDAX, *FOLIOS], ids=lambda kind: kind.id)
def test_one_section(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """A namespace of 128 MiB fills one section; with map=dev two of its 64 pageblocks hold the memmap."""
    with run.bench(kernel_name, sized(kind, SECTION), 0, pmem_size=GIB) as bench:
        bind_and_check(bench)


@pytest.mark.full
@pytest.mark.parametrize("kind", [*FSDAX, *FOLIOS], ids=lambda kind: kind.id)
def test_start_in_mid_section(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """The namespace begins and ends within sections: those parts of its memmap lie in RAM, with map=dev too."""
    with run.bench(kernel_name, NamespaceSpec(size_bytes=SECTION + 48 * MIB), 0, pmem_size=2 * GIB) as bench:
        bench.create_namespace()
        bench.spec = sized(kind, 4 * SECTION)
        bind_and_check(bench)
        if not bench.namespace.start % SECTION:
            raise HostFailure(f"{bench.namespace.name} begins at {bench.namespace.start:#x}, not in mid-section")


#: Two in one region: alike but for their size, and of two kinds.
PAIRS = {
    "alike": (sized(FSDAX[0], GIB + 16 * MIB), sized(FSDAX[0], GIB)),
    "two-kinds": (sized(FSDAX[1], GIB + 16 * MIB), sized(FOLIOS[0], GIB)),
}


@pytest.mark.full
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_namespaces_in_turn(run: Run, kernel_name: str, pair: tuple[NamespaceSpec, NamespaceSpec]) -> None:
    """Each has its own pgmap in each of its struct pages, whichever was bound last, and the other's memmap stays."""
    with run.bench(kernel_name, pair[0], 0, pmem_size=4 * GIB) as bench:
        binds, namespaces = [], []
        for spec in pair:
            bench.spec = spec
            binds.append(bench.create_namespace())
            namespaces.append(bench.namespace)
        for index in (1, 2):
            for number, namespace in enumerate(namespaces):
                bench.turn_to(namespace)
                binds[number] = bench.rebind_over_poison(index)
                bench.check_memmap(binds[number])
                bench.turn_to(namespaces[1 - number])
                bench.check_memmap(binds[1 - number], again=True)


#: How often two binds are begun together until both are under way at once; the guest has one CPU.
TRIES = 5


@pytest.mark.full
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_namespaces_at_once(run: Run, kernel_name: str, pair: tuple[NamespaceSpec, NamespaceSpec]) -> None:
    """Two tasks are in memmap_init_zone_device() at the same time, and neither memmap has anything of the other."""
    with run.bench(kernel_name, pair[0], 0, pmem_size=4 * GIB) as bench:
        namespaces = []
        for spec in pair:
            bench.spec = spec
            bench.create_namespace()
            namespaces.append(bench.namespace)
        for index in range(1, TRIES + 1):
            together = bench.rebind_together(namespaces, index)
            for namespace, bind in zip(namespaces, together.binds, strict=True):
                bench.turn_to(namespace)
                bench.check_memmap(bind)
            if together.overlapped:
                return
    raise HostFailure(
        f"in {TRIES} tries the two binds never were in memmap_init_zone_device() at once: nothing is known of such "
        "binds. Run the test again on a machine that is less busy"
    )


@pytest.mark.full
@pytest.mark.parametrize("kind", [*FSDAX, *FOLIOS], ids=lambda kind: kind.id)
def test_node_of_the_device(run: Run, kernel_name: str, kind: NamespaceSpec) -> None:
    """The NVDIMM is on node 1, the CPU that binds it on node 0: the struct pages are of node 1."""
    with run.bench(kernel_name, kind, 0, pmem_size=4 * GIB, nodes=2, append=["maxcpus=1"]) as bench:
        cpus = bench.guest.run("cat /sys/devices/system/node/node[01]/cpulist").stdout.split("\n")
        if cpus[0] != "0" or cpus[1]:
            raise HostFailure(f"the guest's only CPU is not on node 0: nodes 0 and 1 have {cpus[:2]}")
        bind_and_check(bench)
        if (node := bench.oracle.node(bench.namespace)) != 1:
            raise KernelFailure(f"{bench.namespace.device} is on node {node}, not on node 1 with its NVDIMM")
