"""Copies of sparse files: the same bytes and the same holes, between file systems too."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from vmtests.guest import sparse

MIB = 1 << 20


def make(path: Path) -> Path:
    """Write a file of 64 MiB with 3 MiB of data at two places."""
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        for offset, count in ((5 * MIB, 2 * MIB), (40 * MIB, MIB)):
            file.seek(offset)
            file.write(os.urandom(count))
    return path


def see_copy(source: Path, to: Path) -> None:
    with to.open("xb") as empty:
        empty.truncate(64 * MIB)
    sparse.copy(source, to)
    assert to.read_bytes() == source.read_bytes()
    assert sparse.checksum(to) == sparse.checksum(source)
    assert to.stat().st_blocks * 512 <= 4 * MIB


def test_copy(tmp_path: Path) -> None:
    see_copy(make(tmp_path / "a"), tmp_path / "b")


def test_copy_to_another_file_system(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is the file system of the other temporary files")
        see_copy(make(tmp_path / "a"), Path(other) / "b")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP])
def test_copy_where_the_kernel_does_not(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    see_copy(make(tmp_path / "a"), tmp_path / "b")


def test_a_full_disk_is_no_reason_to_copy_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space"):
        see_copy(make(tmp_path / "a"), tmp_path / "b")
