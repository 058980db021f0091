"""Modules are unpacked in the order of their insertion, which they themselves tell."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from vmtests.errors import HostFailure
from vmtests.kernel.modules import unpack


def module(path: Path, *depends: str) -> None:
    """Write a module as far as its .modinfo goes, packed as the end of its name says."""
    code = b"\x7fELF" + b"\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0retpoline=Y\0"
    packers: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.compress, ".gz": gzip.compress, ".ko": bytes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packers[path.suffix](code))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Modules of a release: nd_pmem needs libnvdimm and nd_btt, and that libnvdimm too; dax is built in."""
    folder = tmp_path / "modules"
    module(folder / "kernel/drivers/nvdimm/nd_pmem.ko.xz", "libnvdimm", "nd-btt", "dax")
    module(folder / "kernel/drivers/nvdimm/nd-btt.ko.gz", "libnvdimm")
    module(folder / "kernel/drivers/nvdimm/libnvdimm.ko")
    module(folder / "kernel/drivers/acpi/nfit.ko.xz", "libnvdimm")
    (folder / "modules.builtin").write_text("kernel/drivers/dax/dax.ko\nkernel/drivers/virtio/virtio-pci.ko\n")
    return folder


def test_what_a_module_needs_comes_before_it(folder: Path, tmp_path: Path) -> None:
    names = unpack(folder, tmp_path / "to", ["virtio_pci", "nd_pmem", "nfit"])
    assert names == ("libnvdimm.ko", "nd_btt.ko", "nd_pmem.ko", "nfit.ko")
    assert all((tmp_path / "to" / name).read_bytes().startswith(b"\x7fELF") for name in names)


def test_a_module_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="no module device_dax, which a guest needs"):
        unpack(folder, tmp_path / "one", ["device_dax"])
    (folder / "kernel/drivers/nvdimm/libnvdimm.ko").unlink()
    with pytest.raises(HostFailure, match="no module libnvdimm, which nfit needs"):
        unpack(folder, tmp_path / "two", ["nfit"])


def test_a_module_that_cannot_be_unpacked(folder: Path, tmp_path: Path) -> None:
    (folder / "kernel/virtio_net.ko.lz4").write_bytes(b"")
    with pytest.raises(HostFailure, match=r"virtio_net.ko.lz4 is compressed in a way"):
        unpack(folder, tmp_path / "to", ["virtio_net"])
