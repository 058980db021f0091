"""Kernels that are cut off or none at all are refused before QEMU loads what there is of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmtests.errors import HostFailure
from vmtests.kernel import bzimage


def kernel(path: Path, *, sectors: int = 3, paragraphs: int = 64, magic: bytes = b"HdrS") -> Path:
    """Write an image of `sectors` and one more, and of as many paragraphs, that says so."""
    head = bytearray((sectors + 1) * 512 + paragraphs * 16)
    head[0x1F1] = sectors
    head[0x1F4:0x1F8] = paragraphs.to_bytes(4, "little")
    head[0x202:0x206] = magic
    path.write_bytes(head)
    return path


def test_whole(tmp_path: Path) -> None:
    image = kernel(tmp_path / "bzImage")
    bzimage.verify(image, "it")
    with image.open("ab") as file:  # a signature may come behind it
        file.write(b"signature")
    bzimage.verify(image, "it")


@pytest.mark.parametrize("lost", [1, 512, 1024])
def test_cut_off(tmp_path: Path, lost: int) -> None:
    image = kernel(tmp_path / "bzImage")
    os.truncate(image, 3072 - lost)
    with pytest.raises(HostFailure, match=rf"it is cut off: .*bzImage has {3072 - lost} bytes of the 3072 of"):
        bzimage.verify(image, "it")


@pytest.mark.parametrize("left", [0, 0x1F4, 0x205])
def test_hardly_anything_left(tmp_path: Path, left: int) -> None:
    image = kernel(tmp_path / "bzImage")
    os.truncate(image, left)
    with pytest.raises(HostFailure, match="it is no bzImage, or damaged"):
        bzimage.verify(image, "it")


def test_no_number_of_sectors_means_four(tmp_path: Path) -> None:
    """As old as the boot protocol."""
    image = kernel(tmp_path / "bzImage", sectors=0, paragraphs=64)
    with pytest.raises(HostFailure, match="has 1536 bytes of the 3584"):
        bzimage.verify(image, "it")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="no bzImage"):
        bzimage.verify(kernel(tmp_path / "vmlinux", magic=b"ELF "), "it")
    with pytest.raises(HostFailure, match="it is not there: .*none: No such file"):
        bzimage.verify(tmp_path / "none", "it")
