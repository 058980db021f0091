"""Our dump of a guest beside QEMU's own: seconds and bytes, of the same guest, in turns.

    python bench/vmcore.py [--pmem-size 2G] [--times 3] [--json]

The guest has 2 GiB of RAM and an NVDIMM with an fsdax namespace. QEMU's ELF dump holds all of guest memory, its
compressed one leaves pages of zeros out; both read all of it. Needs the disk that an ELF dump takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from vmtests import cache, host, image, kernel
from vmtests.guest import Guest, Machine, boot
from vmtests.memmap import Oracle
from vmtests.pmem import BackingFile, NamespaceSpec, Nvdimm, create_namespace, plug
from vmtests.run.options import parse_size
from vmtests.timing.probes import armed
from vmtests.timing.rebind import Rebinder
from vmtests.vmcore import About, Dump, write

#: QEMU's deadline, where it reads gigabytes.
SECONDS = 600.0


def main() -> None:
    """Boot, dump in turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pmem-size", type=parse_size, default=2 << 30, metavar="SIZE")
    parser.add_argument("--times", type=int, default=3, metavar="N")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.pmem_size, arguments.times)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"a guest of 2 GiB and an NVDIMM of {arguments.pmem_size >> 30} GiB, medians of {arguments.times}")
    print(f"{'':12}{'seconds':>10}{'ratio':>8}{'MB on disk':>12}{'ratio':>8}")
    ours = found["vmtests"]
    for name, (seconds, size) in found.items():
        print(f"{name:12}{seconds:10.2f}{seconds / ours[0]:8.1f}{size / 1e6:12.0f}{size / ours[1]:8.1f}")


def measure(pmem_size: int, times: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds and the bytes on disk of each way to dump."""
    built, initramfs = kernel.build(kernel.load("base")), image.build()
    accelerator = host.accelerator(built.image, initramfs.path, "auto")
    machine = Machine(accelerator.name, cpus=1 if accelerator.name == "tcg" else 2)
    with tempfile.TemporaryDirectory(dir=cache.root(), prefix="bench-") as name:
        folder = Path(name)
        with (
            boot(built, initramfs, machine, evidence=folder / "evidence") as guest,
            Oracle.attach(guest) as oracle,
            armed(guest, oracle.pgmap_offsets) as probes,
            BackingFile.create(guest.workspace.files / "nvdimm0", Nvdimm.backing_bytes(pmem_size)) as backing,
        ):
            region = plug(guest, Nvdimm(id="nvdimm0", backing=backing.path, size_bytes=pmem_size))
            namespace = create_namespace(guest, region, NamespaceSpec())
            oracle.saw(namespace, Rebinder(guest, namespace, probes, 0, "wall").first().truth)
            about = About.of(built, oracle.known, "a measurement")
            ways: dict[str, Callable[[Path], object]] = {
                "vmtests": lambda file: write(file, guest.monitor, about),
                "QEMU, zlib": lambda file: by_qemu(guest, file, format="kdump-zlib"),
                "QEMU, ELF": lambda file: by_qemu(guest, file),
            }
            return take_turns(ways, folder, times)


def by_qemu(guest: Guest, file: Path, **arguments: str) -> None:
    """Let QEMU dump the guest."""
    guest.monitor.execute("dump-guest-memory", seconds=SECONDS, paging=False, protocol=f"file:{file}", **arguments)


def take_turns(ways: dict[str, Callable[[Path], object]], folder: Path, times: int) -> dict[str, tuple[float, float]]:
    """Dump in each way after the other, so often."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, dump in ways.items():
            file = folder / "vmcore"
            begun = time.monotonic()
            dump(file)
            seconds[name].append(time.monotonic() - begun)
            sizes[name].append(file.stat().st_blocks * 512)
            if name == "vmtests":
                assert all(result.passed for _, result in Dump.open(file).check()), "what is timed must be right"
            file.unlink()
    return {name: (statistics.median(seconds[name]), statistics.median(sizes[name])) for name in ways}


if __name__ == "__main__":
    main()
