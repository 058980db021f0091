"""Using a namespace: what is left in its memmap afterwards is what use may leave, and the data outlive a rebind."""

import pytest

from vmtests.errors import KernelFailure
from vmtests.pmem import KINDS, NamespaceSpec
from vmtests.run.bench import Bench
from vmtests.run.run import Run

MIB, GIB = 1 << 20, 1 << 30

#: The struct page fields that use changes for good. fsdax: the words of tails 1 and 2 that dax_folio_reset_order() does
#: not write again (fs/dax.c:389-430 in 7.3.4). devdax: dax_set_mapping() sets them once (drivers/dax/device.c:60-84).
LEFT_BEHIND = {"fsdax": {"zone_device_data", "private"}, "devdax": {"mapping", "index"}}

_FSDAX = {
    "write": """
mkfs.ext4 -q -b 4096 /dev/{node} && mkdir -p /mnt && mount -t ext4 -o dax=always /dev/{node} /mnt &&
dd if=/dev/zero of=/mnt/file bs=1M count={mib} 2>/dev/null && /tmp/map_file write /mnt/file {bytes} {step} &&
umount /mnt
""",
    "read": """
mount -t ext4 -o dax=always /dev/{node} /mnt && /tmp/map_file read /mnt/file {bytes} {step} && umount /mnt
""",
}
_DEVDAX = "/tmp/map_file {verb} /dev/{node} {bytes} {step}"


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS, ids=[kind.id for kind in KINDS])
def test_use(run: Run, kernel_name: str, kind: NamespaceSpec, map_file: bytes) -> None:
    """mmap, write, fork and unmap; on fsdax through a file of ext4 with dax."""
    with run.bench(kernel_name, kind, 0, pmem_size=8 * GIB) as bench:
        bind = bench.create_namespace()
        bench.check_memmap(bind)
        bench.guest.write("/tmp/map_file", map_file)
        bench.guest.run(["chmod", "700", "/tmp/map_file"])

        use(bench, "write")
        left = bench.oracle.check(bench.namespace, bind.truth)
        if wrong := left.histogram.keys() - LEFT_BEHIND[kind.mode]:
            raise KernelFailure(
                f"use leaves {', '.join(sorted(wrong))} changed in the memmap of {kind.id}",
                output="\n".join(map(str, left.examples)),
            )
        rebind = bench.rebind(1)[-1]
        bench.check_memmap(rebind)
        use(bench, "read")


def use(bench: Bench, verb: str) -> None:
    """Write the data, or read them back."""
    script = _FSDAX[verb] if bench.spec.mode == "fsdax" else _DEVDAX
    # A mapping holds whole pages of the namespace.
    size = max(256 * MIB, bench.namespace.align_bytes)
    words = {"verb": verb, "node": bench.namespace.node, "bytes": size, "mib": size // MIB, "step": size // 65536}
    bench.guest.run(script.format(**words), seconds=120)
