"""Makes the consoles anew that tests/test_guest_consoles.py reads: real guests, whose kernels die as the table says.

    python -m bench.consoles [NAME...]

Where a script ran, the log is trimmed to what came after the boot. What the logs must be taken for stands in
tests/consoles/consoles.toml; run the unit tests after this.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.test_guest_consoles import FOLDER, Said, table
from vmtests import host, image, kernel
from vmtests.errors import VmtestsError
from vmtests.guest import Guest, Machine, boot
from vmtests.image import Image

#: The shell function that the scripts use.
LKDTM = 'lkdtm() { echo "$1" > /sys/kernel/debug/provoke-crash/DIRECT; }\n'

#: Where a boot ends.
READY = b"vmtests: ready"

#: What is kept behind that: reports come again and again when their guest is not ended at once, as on a busy host.
LINES = 120

#: What a script may take on real hardware: soft lockups need some seconds of the guest's.
SECONDS = 30.0


def main() -> None:
    """Boot a guest for each name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [said.name for said in table()]
    parser.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    wanted = parser.parse_args().names or names
    if unknown := set(wanted) - set(names):
        parser.error(f"the table has no {' '.join(sorted(unknown))}; it has {' '.join(names)}")
    initramfs = image.build()
    for said in table():
        if said.name in wanted:
            log = console(said, initramfs)
            said.log.write_bytes(log)
            print(f"{said.log.relative_to(FOLDER)}: {len(log)} bytes", flush=True)


def console(said: Said, initramfs: Image) -> bytes:
    """Return what a guest prints that does what the table says."""
    with tempfile.TemporaryDirectory() as folder:
        with suppress(VmtestsError), guest(said, initramfs, Path(folder)) as running:
            running.run(LKDTM + (said.script or ":"), seconds=SECONDS, check=False)
        log = (Path(folder) / "console.log").read_bytes()
    return b"".join(log[log.index(READY) :].splitlines(keepends=True)[:LINES]) if said.script else log


@contextmanager
def guest(said: Said, initramfs: Image, evidence: Path) -> Iterator[Guest]:
    """Boot from cold: a restored guest's console begins in the middle."""
    built = kernel.build(kernel.load(said.kernel), progress=print)
    accelerator = host.accelerator(built.image, initramfs.path).name
    machine = Machine(accelerator, cpus=said.cpus)
    with boot(built, initramfs, machine, evidence=evidence, append=said.append, tell=print) as running:
        yield running


if __name__ == "__main__":
    main()
