"""Using a namespace: what is left in its memmap is what use may leave, and the data outlive a rebind and a boot."""

import pytest

from vmtests.errors import KernelFailure
from vmtests.guest import Workspace
from vmtests.memmap import Example
from vmtests.pmem import KINDS, BackingFile, Namespace, NamespaceSpec, Nvdimm
from vmtests.run.bench import Bench
from vmtests.run.run import Run
from vmtests.timing import dmesg
from vmtests.timing.rebind import Bind

MIB, GIB = 1 << 20, 1 << 30
PMEM_BYTES = 8 * GIB

#: What use may change in a struct page for good. fsdax: words of tails 1 and 2 that dax_folio_reset_order() does not
#: write again (fs/dax.c:389-430 in 7.3.4). devdax: dax_set_mapping() sets them once (drivers/dax/device.c:60-84), and
#: what was written stays dirty, as its dirty_folio() is noop_dirty_folio().
LEFT_BEHIND = {"fsdax": {"zone_device_data", "private"}, "devdax": {"mapping", "index", "PG_dirty"}}

_FSDAX = {
    "write": """
mkfs.ext4 -q -b 4096 /dev/{node} && mkdir -p /mnt && mount -t ext4 -o dax=always /dev/{node} /mnt &&
dd if=/dev/zero of=/mnt/file bs=1M count={mib} 2>/dev/null && /tmp/map_file write /mnt/file {bytes} {step} &&
umount /mnt
""",
    "read": """
mkdir -p /mnt && mount -t ext4 -o dax=always /dev/{node} /mnt &&
/tmp/map_file read /mnt/file {bytes} {step} && umount /mnt
""",
}
_DEVDAX = "/tmp/map_file {verb} /dev/{node} {bytes} {step}"


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS, ids=[kind.id for kind in KINDS])
def test_use(run: Run, kernel_name: str, kind: NamespaceSpec, map_file: bytes) -> None:
    """mmap, write, fork and unmap; on fsdax through a file of ext4 with dax. Then a rebind, then another boot."""
    with (
        Workspace() as place,
        BackingFile.create(place.files / "nvdimm0", Nvdimm.backing_bytes(PMEM_BYTES)) as backing,
    ):
        with run.bench(kernel_name, kind, 0, pmem_size=PMEM_BYTES, backing=backing) as bench:
            bind = bench.create_namespace()
            bench.check_memmap(bind)
            install(bench, map_file)
            use(bench, "write")
            see_what_is_left(bench, bind)
            written = use(bench, "read")
            bench.check_memmap(bench.rebind(1)[-1])
            see_data(bench, written, "a rebind")
            made = place_of(bench.namespace)
            see_no_complaints(bench)

        with run.bench(kernel_name, kind, 1, pmem_size=PMEM_BYTES, backing=backing) as bench:
            bench.check_memmap(bench.find_namespace())
            if (found := place_of(bench.namespace)) != made:
                raise KernelFailure(f"{kind.id} was at {made} and came back at {found} after another boot")
            install(bench, map_file)
            see_data(bench, written, "another boot")
            see_no_complaints(bench)


def place_of(namespace: Namespace) -> tuple[str, int, int, int]:
    """Return what labels and info block say of a namespace: its name, where it is, its size, where its data begin."""
    return namespace.name, namespace.start, namespace.size_bytes, namespace.data_start


def install(bench: Bench, map_file: bytes) -> None:
    """Put the program into the guest."""
    bench.guest.write("/tmp/map_file", map_file)
    bench.guest.run(["chmod", "700", "/tmp/map_file"])


def see_data(bench: Bench, written: str, what: str) -> None:
    """Read the data back and hold them against their checksum."""
    if (found := use(bench, "read")) != written:
        raise KernelFailure(f"the data of {bench.spec.id} had the checksum {written} and have {found} after {what}")


def see_no_complaints(bench: Bench) -> None:
    """Look whether the kernel has warned of anything."""
    if complaints := dmesg.warnings(bench.guest.dmesg()):
        raise KernelFailure(f"the kernel complains of the use of {bench.spec.id}", output="\n".join(complaints))


def see_what_is_left(bench: Bench, bind: Bind) -> None:
    """Look at the memmap after use: nothing may differ from a fresh one but what is known to."""
    left = bench.oracle.check(bench.namespace, bind.truth, limit=1 << 20).examples
    dirty = 1 << int(bench.oracle.access.program["PG_dirty"])

    def field(example: Example) -> str:
        flips = int(example.got, 0) ^ int(example.wanted, 0)
        return "PG_dirty" if (example.field, flips) == ("flags", dirty) else example.field

    wrong = [example for example in left if field(example) not in LEFT_BEHIND[bench.spec.mode]]
    if wrong:
        raise KernelFailure(
            f"use leaves more changed in the memmap of {bench.namespace.id} than it may: {len(wrong)} fields",
            output="\n".join(map(str, wrong[:20])),
        )


def use(bench: Bench, verb: str) -> str:
    """Write the data, or read them back; return what the program printed: on reading, a checksum."""
    script = _FSDAX[verb] if bench.spec.mode == "fsdax" else _DEVDAX
    # A mapping holds whole pages of the namespace.
    size = max(16 * MIB, bench.namespace.align_bytes)
    words = {"verb": verb, "node": bench.namespace.node, "bytes": size, "mib": size // MIB, "step": size // 4096}
    return bench.guest.run(script.format(**words), seconds=120).stdout.strip()
