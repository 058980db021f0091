"""Binds and unbinds at the wrong moment, and what becomes of the data in a namespace."""

import re

import pytest

from vmtests.cases.fault import Fault, fails, keep
from vmtests.cases.test_use import install
from vmtests.errors import KernelFailure
from vmtests.guest import Workspace
from vmtests.pmem import BackingFile, Driver, NamespaceSpec, Nvdimm
from vmtests.run.bench import Bench
from vmtests.run.run import Run
from vmtests.timing.probes import MONO

MIB, GIB = 1 << 20, 1 << 30

# Two tasks bind one device: each marks in the trace that it begins, and prints its status.
BOTH_BIND = f"""
exec 3> {MONO}/trace_marker
for task in 1 2; do
    {{{{ echo "bind $task" >&3; echo {{device}} > {{driver}}/bind; echo $?; }}}} &
done
wait
"""

MOUNT = "mkdir -p /mnt && mount -t ext4 -o dax=always /dev/{node} /mnt"
MAKE = "mkfs.ext4 -q -b 4096 /dev/{node} && " + MOUNT
# Comes back when the data are on the device.
WRITE = "dd if=/dev/urandom of=/mnt/{file} bs=1M count=8 conv=fsync 2>/dev/null"
CRASH = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"

# A program maps a file and writes to it, and the namespace loses its driver. Then the program reads, and ends.
UNBIND = """
dd if=/dev/zero of=/mnt/file bs=1M count=16 2>/dev/null && mkfifo /tmp/in || exit 1
/tmp/map_file hold /mnt/file {bytes} 4096 < /tmp/in > /tmp/out 2>&1 &
exec 4> /tmp/in
until [ -s /tmp/out ]; do usleep 10000; done
echo {device} > {driver}/unbind && exec 4>&- && wait
umount -l /mnt
"""


def words(bench: Bench) -> dict[str, str]:
    """Return what the scripts call the namespace."""
    namespace = bench.namespace
    driver = Driver(bench.guest, namespace).folder
    return {"node": namespace.node, "device": namespace.device, "driver": driver}


def test_bind_while_another_runs(run: Run) -> None:
    """One of the two is refused, and the memmap is that of the other."""
    with run.bench("base", NamespaceSpec(), 0, pmem_size=8 * GIB) as bench:
        bench.create_namespace()
        Driver(bench.guest, bench.namespace).unbind()
        said = bench.guest.run(BOTH_BIND.format(**words(bench)), seconds=60)
        assert (sorted(said.stdout.split()), said.stderr.count("Device or resource busy")) == (["0", "1"], 1)
        [seen] = bench.probes.collect()
        begun = [bench.probes.marks[f"bind {task}"] for task in (1, 2)]
        assert max(begun) < seen.entered_ns + seen.duration_ns, "the second bind began when the first was over"
        bench.check_memmap(bench.rebinder.bind_of(1, seen, poisoned=False))
    keep(run, "a bind while another of the same device runs", "passed", None, "one is refused, and the memmap is right")


@pytest.mark.full
def test_unbind_while_a_file_is_mapped(run: Run, map_file: bytes) -> None:
    """What the kernel makes of it is its affair, what we say of that is ours: 7.3.4 unbinds, and dies of the mapping.

    It frees the memmap although the program's page tables lead to it (memunmap_pages() waits for no mapping of a file),
    and reads the freed struct pages when the mapping goes.
    """
    what, fault = "an unbind while a DAX file is mapped", Fault()
    error: KernelFailure | None = None
    try:
        with (
            fault.announced(run.record.folder, "BUG: unable to handle page fault"),
            run.bench("base", NamespaceSpec(), 0, pmem_size=GIB) as bench,
        ):
            bench.create_namespace()
            install(bench, map_file)
            bench.guest.run((MAKE + UNBIND).format(bytes=16 * MIB, **words(bench)), seconds=60)
            Driver(bench.guest, bench.namespace).bind()
            bench.check_memmap(bench.rebind(1)[-1])
    except KernelFailure as raised:
        error = raised
    if error is None:
        keep(run, what, "passed", None, "the kernel takes it, and the memmap is right")
    else:
        assert re.search(r"(?s)BUG: unable to handle page fault.*zap", str(error))
        fault.verify(run, what, error)


def test_data_survive(run: Run) -> None:
    """What was synced is there after 30 rebinds, and after the crash of a guest that had the file system mounted."""
    spec = NamespaceSpec()
    with (
        Workspace() as place,
        BackingFile.create(place.files / "nvdimm0", Nvdimm.backing_bytes(GIB)) as backing,
    ):
        with (
            fails(
                run,
                "the guest crashes with data just synced",
                KernelFailure,
                "panic - not syncing: sysrq triggered crash",
                announced="sysrq: Trigger a crash",
            ),
            run.bench("base", spec, 0, pmem_size=GIB, backing=backing) as bench,
        ):
            bench.create_namespace()
            run_script(bench, MAKE, WRITE.format(file="old"))
            old = checksums(bench, "old")
            run_script(bench, "umount /mnt")
            bench.check_memmap(bench.rebind(30)[-1])
            run_script(bench, MOUNT)
            see(bench, old, "30 rebinds")
            run_script(bench, WRITE.format(file="new"))
            both = checksums(bench, "old", "new")
            run_script(bench, CRASH)
        with run.bench("base", spec, 1, pmem_size=GIB, backing=backing) as bench:
            bench.check_memmap(bench.find_namespace())
            run_script(bench, MOUNT)
            see(bench, both, "a crash")
            run_script(bench, "umount /mnt")
    keep(run, "the data of a file, after 30 rebinds and a crash", "passed", None, "its checksum is that after fsync()")


def run_script(bench: Bench, *steps: str) -> str:
    """Run the steps of a script until one fails, and return what they printed."""
    return bench.guest.run(" && ".join(steps).format(**words(bench))).stdout


def checksums(bench: Bench, *files: str) -> dict[str, str]:
    """Return the checksum of each file."""
    return {file: run_script(bench, f"sha256sum < /mnt/{file}").split()[0] for file in files}


def see(bench: Bench, wanted: dict[str, str], after: str) -> None:
    """Hold the files against the checksums that they had."""
    if (found := checksums(bench, *wanted)) != wanted:
        raise KernelFailure(f"the data had the checksums {wanted}, and have {found} after {after}")
