"""Sparse files: copied without their holes, and told apart from what they were."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)

#: What copy_file_range(2) says between file systems, and where a file system or a kernel has no such thing.
_NO_COPY = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def copy(source: Path, to: Path) -> None:
    """Copy the data of a sparse file into an existing file of the same size that has none."""
    with source.open("rb") as reading, to.open("r+b") as writing:
        for start, end in _extents(reading.fileno()):
            while start < end:
                start += _copy_piece(reading.fileno(), writing.fileno(), start, end - start)


def _copy_piece(source: int, to: int, offset: int, count: int) -> int:
    """Copy up to `count` bytes and return how many; the file system shares the blocks, where it can."""
    try:
        return os.copy_file_range(source, to, count, offset, offset)
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
        return os.pwrite(to, os.pread(source, min(count, _BLOCK), offset), offset)


def checksum(path: Path) -> int:
    """Return a checksum of a sparse file's content; where it has holes and where zeros makes no difference."""
    total = 0
    with path.open("rb") as file:
        done = 0
        for start, end in _extents(file.fileno()):
            for offset in range(max(start // _BLOCK * _BLOCK, done), end, _BLOCK):
                block = os.pread(file.fileno(), _BLOCK, offset)
                if block != _ZEROS[: len(block)]:
                    total = zlib.crc32(block, zlib.crc32(offset.to_bytes(8), total))
                done = offset + _BLOCK
    return total


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data: first byte and end."""
    end, size = 0, os.fstat(descriptor).st_size
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
