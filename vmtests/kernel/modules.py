"""The modules that a kernel needs before there is a network and persistent memory, in the order of their insertion.

What a module depends on stands in itself (modinfo's "depends"): packages bring no modules.dep, that is made where they
are installed.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backports import zstd

from vmtests.errors import HostFailure

#: What a guest needs: the NVDIMM and all that binds to it, ssh, and what tells the host about vmcoreinfo and panics.
WANTED = ("qemu_fw_cfg", "pvpanic_mmio", "pvpanic_pci", "virtio_net", "nfit", "nd_pmem", "device_dax", "dax_pmem")

_UNPACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".zst": zstd.decompress,
}

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def unpack(folder: Path, to: Path, wanted: Sequence[str] = WANTED) -> tuple[str, ...]:
    """Unpack the modules that are wanted, and what they depend on, and return their files' names in order of insertion.

    Args:
        folder: the modules of one release, lib/modules/RELEASE.
        to: the folder for them.
        wanted: names of modules; what is built into the kernel is passed over.

    Raises:
        HostFailure: one is neither built in nor there.
    """
    files = {_name(path): path for path in folder.rglob("*.ko*")}
    codes = _insertion(files, _builtin(folder), wanted)
    to.mkdir()
    for name, code in codes.items():
        (to / f"{name}.ko").write_bytes(code)
    return tuple(f"{name}.ko" for name in codes)


def _insertion(files: Mapping[str, Path], builtin: frozenset[str], wanted: Sequence[str]) -> dict[str, bytes]:
    """Return the code of the modules by name, each behind what it depends on."""
    codes: dict[str, bytes] = {}

    def add(name: str, by: str) -> None:
        if name in codes or name in builtin:
            return
        if name not in files:
            raise HostFailure(f"the kernel has no module {name}, which {by} needs, and it is not built in")
        code = _code(files[name])
        found = _DEPENDS.search(code)
        for other in filter(None, found[1].decode().split(",") if found else ()):
            add(_plain(other), name)
        codes[name] = code

    for name in wanted:
        add(name, "a guest")
    return codes


def _builtin(folder: Path) -> frozenset[str]:
    listing = folder / "modules.builtin"
    return frozenset(_name(Path(line)) for line in (listing.read_text().split() if listing.exists() else ()))


def _code(path: Path) -> bytes:
    unpacker = _UNPACKERS.get(path.suffix)
    if unpacker is None:
        raise HostFailure(f"the kernel module {path} is compressed in a way that is not known here")
    return unpacker(path.read_bytes())


def _name(path: Path) -> str:
    """Return a module's name, by which the kernel does not tell - from _."""
    return _plain(path.name.partition(".ko")[0])


def _plain(name: str) -> str:
    return name.replace("-", "_")
