"""Files that are damaged or gone: the host's failure, said before the kernel could be blamed, and survived by us."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vmtests.cases.fault import fails
from vmtests.errors import HostFailure
from vmtests.guest import Workspace, boot
from vmtests.pmem import BackingFile, NamespaceSpec, Nvdimm, plug
from vmtests.run.run import Run

GIB = 1 << 30

#: Where in the label area bytes are overwritten, and what must be said of it. QEMU's area of 128 KiB has two index
#: blocks of 256 bytes, then labels of as many, of which one of the first two is in use.
LABELS = {
    "index": ([16], "index block 0 is not what"),
    "label": ([2 * 256 + 20, 3 * 256 + 20], r"label in slot \d+ is not what"),
}


@pytest.mark.parametrize("share", [0.5, 0.0001], ids=["half", "nearly-all"])
def test_truncated_kernel_image(run: Run, tmp_path: Path, share: float) -> None:
    """QEMU would boot it, and the guest say nothing for ever."""
    kernel = run.kernel("base")
    image = cut(kernel.image, tmp_path / "bzImage", share)
    with (
        fails(
            run, f"the kernel's image is cut to {image.stat().st_size} bytes", HostFailure, "image of kernel"
        ) as fault,
        run.evidence.folder("base") as folder,
    ):
        fault.comes()
        with boot(replace(kernel, image=image), run.image(kernel), run.machine(), evidence=folder):
            pass


def test_truncated_guest_image(run: Run, tmp_path: Path) -> None:
    """The kernel would unpack what there is, and panic for want of an init."""
    kernel = run.kernel("base")
    whole = run.image(kernel)
    image = replace(whole, path=cut(whole.path, tmp_path / "guest.cpio", 0.5))
    with (
        fails(run, "the guest's image is cut to half", HostFailure, "guest's image is damaged") as fault,
        run.evidence.folder("base") as folder,
    ):
        fault.comes()
        with boot(kernel, image, run.machine(), evidence=folder):
            pass


def cut(file: Path, to: Path, share: float) -> Path:
    """Copy a file, and cut that share of it off."""
    shutil.copy(file, to)
    os.truncate(to, int(file.stat().st_size * (1 - share)))
    return to


@pytest.mark.full
def test_truncated_backing_file_read_by_us(run: Run) -> None:
    """A memmap that is no longer in its file kills no reader of it."""
    with (
        fails(
            run, "the backing file is cut, and we read the memmap", HostFailure, "nvdimm0 ends at byte .* cut short"
        ) as fault,
        run.bench("base", NamespaceSpec(), 0, pmem_size=4 * GIB) as bench,
    ):
        first = bench.create_namespace()
        fault.comes()
        os.truncate(bench.region.nvdimm.backing, 1 << 20)
        bench.check_memmap(first)


@pytest.mark.full
def test_truncated_backing_file_written_by_the_guest(run: Run) -> None:
    """QEMU dies of the memory that it has lost."""
    with (
        fails(run, "the backing file is cut, and the guest binds", HostFailure, "QEMU ended on SIGBUS") as fault,
        run.bench("base", NamespaceSpec(), 0, pmem_size=4 * GIB) as bench,
    ):
        bench.create_namespace()
        fault.comes()
        os.truncate(bench.region.nvdimm.backing, 1 << 20)
        bench.rebind(1)


@pytest.mark.full
@pytest.mark.parametrize("part", LABELS)
def test_corrupted_labels(run: Run, part: str) -> None:
    """The kernel passes over them without a word, so that the namespace would be missing by its fault."""
    offsets, says = LABELS[part]
    with (
        Workspace() as place,
        BackingFile.create(place.files / "nvdimm0", Nvdimm.backing_bytes(GIB)) as backing,
    ):
        with run.bench("base", NamespaceSpec(), 0, pmem_size=GIB, backing=backing) as bench:
            bench.create_namespace()
        for offset in offsets:
            turn_bits(backing.path, GIB + offset)
        with (
            fails(run, f"a namespace's labels are corrupted, {part}", HostFailure, says) as fault,
            run.guest("base", 1) as guest,
        ):
            fault.comes()
            plug(guest, Nvdimm("nvdimm0", backing.path, GIB))


def turn_bits(path: Path, offset: int) -> None:
    """Turn all bits of four bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        before = file.read(4)
        file.seek(offset)
        file.write(bytes(byte ^ 0xFF for byte in before))
