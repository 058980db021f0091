"""The backing file: sparse, its owner's alone, and never begun where it cannot end well."""

from __future__ import annotations

import os
import resource
import stat
from collections import namedtuple
from pathlib import Path

import pytest

from vmtests.errors import HostFailure
from vmtests.guest import size
from vmtests.pmem import BackingFile

Usage = namedtuple("Usage", "total used free")


def test_sparse_and_private(tmp_path: Path) -> None:
    path = tmp_path / "nvdimm0"
    with BackingFile.create(path, 100 * size.GIB + 128 * size.KIB) as made:
        found = path.stat()
        assert found.st_size == made.size_bytes == 100 * size.GIB + 128 * size.KIB
        assert found.st_blocks == made.data_bytes == 0
        assert stat.S_IMODE(found.st_mode) == 0o600
        with path.open("r+b") as handle:
            os.pwrite(handle.fileno(), b"x" * 4096, 50 * size.GIB)
        assert 4096 <= made.data_bytes <= size.MIB
    assert not path.exists()


def test_existing_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(HostFailure, match=r"precious exists: remove it"):
        BackingFile.create(path, size.GIB)
    assert path.read_text() == "data"


def test_file_in_use(tmp_path: Path) -> None:
    path = tmp_path / "nvdimm0"
    with BackingFile.create(path, size.GIB), pytest.raises(HostFailure, match=r"nvdimm0 is in use by another run"):
        BackingFile.create(path, size.GIB)


def test_removed_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), BackingFile.create(tmp_path / "nvdimm0", size.GIB):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_room_for_the_memmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nvdimm0"
    monkeypatch.setattr("vmtests.guest.workspace.shutil.disk_usage", lambda _: Usage(0, 0, 1600 * size.MIB))
    with pytest.raises(HostFailure, match=r"nvdimm0 needs up to 1664 MiB in .*, where 1600 MiB are free"):
        BackingFile.create(path, 100 * size.GIB)
    assert not path.exists()
    with BackingFile.create(path, 90 * size.GIB):
        pass


def test_no_sparse_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmtests.pmem.backing.os.ftruncate", _fill)
    with pytest.raises(HostFailure, match="keeps no sparse files"):
        BackingFile.create(tmp_path / "nvdimm0", size.GIB)
    assert not list(tmp_path.iterdir())


def _fill(handle: int, length: int) -> None:
    """ftruncate() as a file system without holes does it."""
    if length:
        os.posix_fallocate(handle, 0, length)


def test_larger_than_allowed(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size.GIB, limits[1]))
    try:
        with pytest.raises(HostFailure, match=r"cannot have 2 GiB: the file system or `ulimit -f`"):
            BackingFile.create(tmp_path / "nvdimm0", 2 * size.GIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="cannot be made: No such file or directory"):
        BackingFile.create(tmp_path / "none" / "nvdimm0", size.GIB)
