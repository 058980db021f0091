"""An NVDIMM's labels, which share it out among namespaces: looked at before a guest gets them.

The label area begins with two index blocks, then come slots, one a label; the index says which are in use. Each block,
and each label of 256 bytes, has a checksum (drivers/nvdimm/label.h and label.c in 7.3.4, UEFI 2.7). The kernel passes
over a damaged one without a word, and the namespace is not there: as if the kernel had lost it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SIGNATURE = b"NAMESPACE_INDEX\0"
#: sig, flags, labelsize, seq, myoff, mysize, otheroff, labeloff, nslot, major, minor, checksum.
_INDEX = struct.Struct("<16s3sBIQQQQIHHQ")
_INDEX_SUM = 64
_INDEX_ALIGN = 256
_LABEL_BYTES = 256
_LABEL_SUM = _LABEL_BYTES - 8
_LABEL_SLOT = 120


def damage(area: bytes) -> str:
    """Return what is wrong with a label area, "" if nothing is; one that was never written is right."""
    if not any(area):
        return ""
    blocks = [_Index.read(area, number) for number in range(2)]
    for number, block in enumerate(blocks):
        if block is None:
            return f"index block {number} is not what its checksum says"
    first, second = (block for block in blocks if block is not None)
    index = second if second.sequence == first.sequence % 3 + 1 else first  # they follow each other 1, 2, 3, 1
    for slot in index.used():
        label = area[index.labels + slot * index.label_bytes :][: index.label_bytes]
        # The shorter ones, of before UEFI 2.7, have no checksum.
        if index.label_bytes == _LABEL_BYTES and not _whole(label, _LABEL_SUM):
            return f"the label in slot {slot} is not what its checksum says"
        if int.from_bytes(label[_LABEL_SLOT:][:4], "little") != slot:
            return f"the label in slot {slot} is of another slot"
    return ""


@dataclass(frozen=True)
class _Index:
    """An index block: where the labels begin, how long each is, and which slots are free, a bit each."""

    sequence: int
    labels: int
    label_bytes: int
    slots: int
    free: bytes

    @classmethod
    def read(cls, area: bytes, number: int) -> _Index | None:
        """Return one of the two index blocks, None if it is damaged."""
        start = number * _index_bytes(len(area))
        block = area[start : start + _index_bytes(len(area))]
        signature, _, size, sequence, _, _, _, labels, slots, major, minor, _ = _INDEX.unpack_from(block)
        if signature != _SIGNATURE or not _whole(block, _INDEX_SUM):
            return None
        label_bytes = 128 << size if (major, minor) >= (1, 2) else 128
        return cls(sequence & 3, labels, label_bytes, slots, block[_INDEX.size :])

    def used(self) -> Iterator[int]:
        """Yield the slots that have a label."""
        for slot in range(self.slots):
            if not self.free[slot // 8] >> slot % 8 & 1:
                yield slot


def _index_bytes(area_bytes: int) -> int:
    """Return the size of an index block (sizeof_namespace_index()): a bit for each slot, rounded up."""
    size = 0
    for _ in range(2):  # first as if the blocks themselves took no room
        slots = (area_bytes - 2 * size) // _LABEL_BYTES
        size = -(-(_INDEX.size + -(-slots // 8)) // _INDEX_ALIGN) * _INDEX_ALIGN
    return size


def _whole(piece: bytes, sum_offset: int) -> bool:
    """Return whether a piece has the checksum that it holds itself, taken as if that were zero."""
    wanted = int.from_bytes(piece[sum_offset:][:8], "little")
    return fletcher64(piece[:sum_offset] + bytes(8) + piece[sum_offset + 8 :]) == wanted


def fletcher64(data: bytes) -> int:
    """Return the checksum of libnvdimm (nd_fletcher64())."""
    low = high = 0
    for (word,) in struct.iter_unpack("<I", data):
        low = (low + word) & 0xFFFFFFFF
        high = (high + low) & 0xFFFFFFFFFFFFFFFF
    return (high << 32 | low) & 0xFFFFFFFFFFFFFFFF
