"""What is read from a bzImage and a vmlinux; the files are made here, as the kernel's build lays them out."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from pathlib import Path

import pytest
from backports import zstd

from tests.fake_bzimage import BANNER, bzimage
from vmtests.errors import HostFailure
from vmtests.kernel.vmlinux import Banner, banner, embedded_config, extract

CODE = b"\x7fELF" + bytes(range(256)) * 64


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstd.compress, bytes])
def test_the_kernel_in_an_image(pack: type[bytes], tmp_path: Path) -> None:
    """However it is compressed, and with the size behind it that the kernel's build puts there."""
    image = bzimage(tmp_path / "bzImage", pack(CODE) + (b"" if pack is bytes else struct.pack("<I", len(CODE))))
    assert extract(image) == CODE


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"\x02\x21\x4c\x18" + bytes(100), "not known here .it begins with 02214c18."),
        (gzip.compress(CODE)[:20] + bytes(100), "is damaged"),
        (zstd.compress(CODE)[:9] + b"\xff" * 100, "is damaged"),
    ],
)
def test_an_image_that_cannot_be_unpacked(payload: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match=said):
        extract(bzimage(tmp_path / "bzImage", payload))


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(CODE)
    with pytest.raises(HostFailure, match="vmlinux is no bzImage"):
        extract(tmp_path / "vmlinux")
    with pytest.raises(HostFailure, match="cannot be read: No such file"):
        extract(tmp_path / "none")


def test_what_it_says_of_itself() -> None:
    clang = b"Linux version 7.3.0-rc1+ (me@host) (Debian clang version 14.0.6, Debian LLD 14.0.6) #7 SMP\n"
    proc = b"%s version %s (me@host) (gcc) %s\n"
    debian = "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"
    assert banner(b"\0" + proc + BANNER + b"\0", "vmlinux") == Banner("7.3.4+deb13-cloud-amd64", debian)
    assert banner(clang, "vmlinux") == Banner("7.3.0-rc1+", "Debian clang version 14.0.6")
    with pytest.raises(HostFailure, match="vmlinux has no line 'Linux version"):
        banner(CODE, "vmlinux")


def test_the_config_inside() -> None:
    inside = b"IKCFG_ST" + gzip.compress(b"CONFIG_X=y\n") + b"IKCFG_ED"
    assert embedded_config(CODE + inside + CODE) == b"CONFIG_X=y\n"
    assert embedded_config(CODE) is None
