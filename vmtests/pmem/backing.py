"""The file that an NVDIMM's content lies in: sparse, ours alone, with room for what the kernel will write."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from vmtests.errors import HostFailure
from vmtests.guest import size
from vmtests.guest.workspace import require_room

#: A struct page takes at most 64 bytes for each page of 4 KiB (MAX_STRUCT_PAGE_SIZE, drivers/nvdimm/nd.h), and map=dev
#: puts them all into the file. Nothing else of a large NVDIMM is ever written; the slack is for labels and info blocks.
MEMMAP_SHARE = 64
SLACK_BYTES = 64 * size.MIB

_PROBE_BYTES = 16 * size.MIB


class BackingFile:
    """A sparse file that exists as long as the context, locked against every other use.

    Make it by `BackingFile.create`.
    """

    def __init__(self, path: Path, size_bytes: int, handle: BinaryIO) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._handle = handle

    @classmethod
    def create(cls, path: Path, size_bytes: int) -> BackingFile:
        """Make the file.

        Args:
            path: it must not exist yet.
            size_bytes: of the whole file, the label area included (Nvdimm.backing_bytes).

        Raises:
            HostFailure: the file exists or is in use, the disk has no room for the memmap, or the file system keeps no
                sparse files or none so large.
        """
        try:
            handle = path.open("x+b")
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            raise HostFailure(f"the backing file {path} cannot be made: {error.strerror}") from error
        try:
            path.chmod(0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            require_room(path.parent, size_bytes // MEMMAP_SHARE + SLACK_BYTES, f"the NVDIMM's backing file {path}")
            _require_sparse(path, handle)
            _truncate(path, handle, size_bytes)
        except BaseException:
            path.unlink(missing_ok=True)
            handle.close()
            raise
        return cls(path, size_bytes, handle)

    @property
    def data_bytes(self) -> int:
        """How much of the file has been written."""
        return os.fstat(self._handle.fileno()).st_blocks * 512

    def close(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        self._handle.close()

    def __enter__(self) -> BackingFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _exists(path: Path) -> HostFailure:
    """Return the failure for a file that is there already: it is never overwritten."""
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return HostFailure(f"the backing file {path} is in use by another run: wait for its end, or name another file")
    except OSError:
        pass
    return HostFailure(f"the backing file {path} exists: remove it if nobody needs it, or name another file")


def _require_sparse(path: Path, handle: BinaryIO) -> None:
    """Refuse a file system that would fill the holes, before it fills 100 GiB of them."""
    _truncate(path, handle, _PROBE_BYTES)
    filled = os.fstat(handle.fileno()).st_blocks * 512
    _truncate(path, handle, 0)
    if filled >= _PROBE_BYTES // 2:
        raise HostFailure(
            f"the file system of {path.parent} keeps no sparse files: set XDG_CACHE_HOME to a folder on one that does "
            "(ext4, xfs, btrfs, tmpfs)"
        )


def _truncate(path: Path, handle: BinaryIO, size_bytes: int) -> None:
    try:
        os.ftruncate(handle.fileno(), size_bytes)
    except OSError as error:
        reason = "the file system or `ulimit -f` allows none so large" if error.errno == errno.EFBIG else error.strerror
        raise HostFailure(f"the backing file {path} cannot have {size.text(size_bytes)}: {reason}") from error
