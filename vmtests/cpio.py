"""A file tree in memory, packed as a cpio archive that the kernel unpacks as its initramfs.

The archive is the same, byte for byte, for the same tree: no times, no owners, names in order. It needs no root, for
device nodes neither. Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

_END = "TRAILER!!!"
#: The magic number and 13 fields of eight digits.
_HEADER_BYTES = 6 + 13 * 8


@dataclass(frozen=True)
class _Node:
    # File type and permissions, as in st_mode.
    mode: int
    # A file's bytes, a link's target.
    content: bytes = b""
    # A device's number.
    major: int = 0
    minor: int = 0


class Tree:
    """Files, folders, links and devices by their path; the folders above a path make themselves."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder, or change the mode of one that is there."""
        self._add(path, _Node(stat.S_IFDIR | mode))

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file, in place of one that is there."""
        self._add(path, _Node(stat.S_IFREG | mode, content))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, _Node(stat.S_IFLNK | 0o777, target.encode()))

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._add(path, _Node(stat.S_IFCHR | mode, major=major, minor=minor))

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def _add(self, path: str, node: _Node) -> None:
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            above = self._nodes.setdefault(str(parent), _Node(stat.S_IFDIR | 0o755))
            if not stat.S_ISDIR(above.mode):
                raise ValueError(f"{path}: {parent} is no folder")
        self._nodes[path] = node

    def pack(self) -> bytes:
        """Return the archive (format newc), a multiple of 512 bytes long."""
        packed = bytearray()
        for inode, path in enumerate(sorted(self._nodes), start=1):
            _append(packed, inode, path, self._nodes[path])
        _append(packed, 0, _END, _Node(0))
        packed += bytes(-len(packed) % 512)
        return bytes(packed)


@dataclass(frozen=True)
class Member:
    """One thing in an archive; `target` is a link's."""

    path: str
    mode: int
    size_bytes: int
    target: str | None = None


def members(archive: bytes) -> Iterator[Member]:
    """Yield what an archive (format newc) holds, in its order."""
    at = 0
    while True:
        fields = [int(archive[at + 6 + 8 * place : at + 14 + 8 * place], 16) for place in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = at + _HEADER_BYTES
        path = archive[name : name + length - 1].decode()
        if path == _END:
            return
        content = -(-(name + length) // 4) * 4
        link = archive[content : content + size].decode() if stat.S_ISLNK(mode) else None
        yield Member(path, mode, size, link)
        at = -(-(content + size) // 4) * 4


def _append(packed: bytearray, inode: int, path: str, node: _Node) -> None:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (inode, node.mode, 0, 0, links, 0, len(node.content), 0, 0, node.major, node.minor, len(name), 0)
    packed += b"070701" + b"".join(b"%08X" % field for field in fields) + name
    packed += bytes(-len(packed) % 4)
    packed += node.content
    packed += bytes(-len(packed) % 4)
