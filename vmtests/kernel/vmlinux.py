"""What a kernel's files say of themselves: the vmlinux inside a bzImage, its release, its compiler, its config."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backports import zstd

from vmtests.elf import sections
from vmtests.errors import HostFailure
from vmtests.kernel import bzimage


class _Unpacker(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


# How the ways of CONFIG_KERNEL_* to compress it begin. What stands behind the end, such as a size, is passed over.
_UNPACKERS: Mapping[bytes, Callable[[], _Unpacker]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"BZh": bz2.BZ2Decompressor,
    b"\x28\xb5\x2f\xfd": zstd.ZstdDecompressor,
}

# linux_banner (init/version-timestamp.c), which /proc/version shows.
_BANNER = re.compile(rb"Linux version (\S+) \([^\n]*?@[^\n]*?\) \(([^\n]+?), [^\n,]+\) #")

# The sections that tell of types; the second is all that a distribution's image has.
_DWARF, _BTF = ".debug_info", ".BTF"

# Around the config that CONFIG_IKCONFIG puts in (kernel/configs.c).
_CONFIG_START, _CONFIG_END = b"IKCFG_ST", b"IKCFG_ED"


@dataclass(frozen=True)
class Banner:
    """What a kernel says of itself.

    Attributes:
        release: as `uname -r` says it.
        compiler: as /proc/version has it, without the linker.
    """

    release: str
    compiler: str


def extract(image: Path) -> bytes:
    """Return the vmlinux that a bzImage unpacks: stripped of symbols and DWARF, its BTF and its build id still there.

    Raises:
        HostFailure: it is no bzImage, or compressed in a way that cannot be undone here.
    """
    try:
        data = image.read_bytes()
    except OSError as error:
        raise HostFailure(f"{image} cannot be read: {error.strerror}") from error
    payload = bzimage.payload(data)
    if payload is None:
        raise HostFailure(f"{image} is no bzImage: give a build's arch/x86/boot/bzImage, or a package's vmlinuz")
    if payload.startswith(b"\x7fELF"):
        return payload
    for magic, unpacker in _UNPACKERS.items():
        if payload.startswith(magic):
            try:
                return unpacker().decompress(payload)
            except (zlib.error, lzma.LZMAError, OSError, zstd.ZstdError) as error:
                raise HostFailure(f"{image} is damaged: its kernel cannot be unpacked ({error})") from error
    raise HostFailure(
        f"the kernel in {image} is compressed in a way that is not known here (it begins with {payload[:4].hex()}): "
        "build it with CONFIG_KERNEL_GZIP, _BZIP2, _XZ or _ZSTD"
    )


def banner(vmlinux: bytes, name: str) -> Banner:
    """Return what a kernel says of itself; HostFailure if `vmlinux`, which is called `name`, says nothing."""
    found = _BANNER.search(vmlinux)
    if found is None:
        raise HostFailure(f"{name} has no line 'Linux version ...': it is no vmlinux")
    return Banner(found[1].decode(), found[2].decode(errors="replace"))


def has_dwarf(vmlinux: Path) -> bool:
    """Return whether a vmlinux has DWARF, which drgn, gdb and crash read, or only BTF.

    Raises:
        HostFailure: it has neither.
    """
    found = sections(vmlinux)
    if _DWARF not in found and _BTF not in found:
        raise HostFailure(
            f"{vmlinux} has no debug info: build it with CONFIG_DEBUG_INFO_DWARF5 or CONFIG_DEBUG_INFO_BTF"
        )
    return _DWARF in found


def has_only_btf(vmlinux: Path) -> bool:
    """Return whether drgn, gdb and crash by themselves make nothing of it; False for a file that cannot be read."""
    try:
        return not has_dwarf(vmlinux)
    except HostFailure:
        return False


def embedded_config(vmlinux: bytes) -> bytes | None:
    """Return the .config that CONFIG_IKCONFIG=y has put into a kernel, None if it is not there."""
    start, end = vmlinux.find(_CONFIG_START), vmlinux.find(_CONFIG_END)
    if not 0 <= start < end:
        return None
    return gzip.decompress(vmlinux[start + len(_CONFIG_START) : end])
