"""A bzImage, as far as it can be seen without booting it whether it is all there."""

from __future__ import annotations

import struct
from pathlib import Path

from vmtests.errors import HostFailure

# Documentation/arch/x86/boot.rst: setup_sects is the byte at 0x1f1, syssize the 4 bytes at 0x1f4, "HdrS" at 0x202;
# behind it, at 0x248, offset and length of the compressed kernel in the code.
_HEADER = struct.Struct("<B2xI10x4s")
_HEADER_OFFSET = 0x1F1
_PAYLOAD = struct.Struct("<II")
_PAYLOAD_OFFSET = 0x248
_SECTOR = 512
_PARAGRAPH = 16

_REMEDY = "If that is in the cache, remove its folder: it is made again"


def verify(path: Path, what: str) -> None:
    """See that the file is a bzImage and has all that its header announces.

    A boot loader does not look: QEMU loads what there is, and the guest dies of it as if its kernel were to blame.

    Args:
        path: the file.
        what: what the message calls it.

    Raises:
        HostFailure: it is not there, no bzImage, or cut off.
    """
    try:
        with path.open("rb") as file:
            file.seek(_HEADER_OFFSET)
            head = file.read(_HEADER.size)
        found = path.stat().st_size
    except OSError as error:
        raise HostFailure(f"{what} is not there: {path}: {error.strerror}") from error
    announced = _announced(head)
    if announced is None:
        raise HostFailure(
            f"{what} is no bzImage, or damaged: {path} has no boot header. Remove its folder to rebuild it"
        )
    wanted = sum(announced)
    if found < wanted:
        raise HostFailure(f"{what} is cut off: {path} has {found} bytes of the {wanted} of its header. {_REMEDY}")


def payload(data: bytes) -> bytes | None:
    """Return the compressed kernel in a bzImage, as far as `data` has it; None if that is none."""
    announced = _announced(data[_HEADER_OFFSET : _HEADER_OFFSET + _HEADER.size])
    if announced is None:
        return None
    offset, length = _PAYLOAD.unpack_from(data, _PAYLOAD_OFFSET)
    start = announced[0] + offset
    return data[start : start + length]


def _announced(head: bytes) -> tuple[int, int] | None:
    """Return the bytes before the code, and those of the code, by the header; None if it is none."""
    sectors, paragraphs, magic = _HEADER.unpack(head) if len(head) == _HEADER.size else (0, 0, b"")
    if magic != b"HdrS":
        return None
    return ((sectors or 4) + 1) * _SECTOR, paragraphs * _PARAGRAPH
