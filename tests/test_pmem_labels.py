"""An NVDIMM's labels: those that the kernel takes, and every way to damage them."""

from __future__ import annotations

import base64
import zlib

import pytest

from vmtests.pmem import labels

KIB = 1 << 10

#: The label area of an NVDIMM of 1 GiB with one namespace, made by ndctl on 7.3.4: its first bytes, the rest is zero.
#: Its label is in slot 1; slot 0 has an old one.
MADE = zlib.decompress(
    base64.b64decode(
        "eNrzc/R1DQ5wdHaN9/RzcY1gAAJGZgYkwIhGM0Gof4wgISYGKRujGxMfT1b/+58ywDBAwA+L/5mw+ZsBt/9bnk9W/zdE/f+vtltP"
        "eIHby7mNbHtOTO4rodQ8DmiQ3dkixCA0YRc2JQ7InMrLH9I+bylxWOPMayyxvef2LoYUtfm/y932bJjWL3jhkiqt/H24ojJxtdr3"
        "V9T2PwOR/mccYP/vAfo/V/X7KwC3s9Kt"
    )
)
AREA = MADE + bytes(128 * KIB - len(MADE))


def damaged(offset: int, data: bytes = b"\xff\xff\xff\xff") -> bytes:
    return AREA[:offset] + data + AREA[offset + len(data) :]


def test_right() -> None:
    assert labels.damage(AREA) == ""
    assert labels.damage(bytes(128 * KIB)) == ""


@pytest.mark.parametrize(
    ("offset", "data", "said"),
    [
        (0, b"X", "index block 0 is not"),
        (30, b"\xee", "index block 0 is not"),
        (256 + 64, b"\xee", "index block 1 is not"),
        (512 + 256 + 20, b"\xee", "label in slot 1 is not"),
        (512 + 256 + 248, b"\xee", "label in slot 1 is not"),
    ],
)
def test_damaged(offset: int, data: bytes, said: str) -> None:
    assert said in labels.damage(damaged(offset, data))


def test_what_is_not_in_use_may_be_anything() -> None:
    assert labels.damage(damaged(512 + 20)) == ""
    assert labels.damage(damaged(64 * KIB)) == ""


def test_a_label_of_another_slot() -> None:
    """It is whole, but not where it belongs: the kernel does not take it."""
    label = bytearray(AREA[768:1024])
    label[120:124] = (5).to_bytes(4, "little")
    label[248:] = bytes(8)
    label[248:] = labels.fletcher64(bytes(label)).to_bytes(8, "little")
    assert labels.damage(damaged(768, bytes(label))) == "the label in slot 1 is of another slot"


def test_something_else_is_no_label_area() -> None:
    assert "index block 0" in labels.damage(b"\x5a" * 128 * KIB)


@pytest.mark.parametrize(("sequences", "current"), [((1, 2), 1), ((2, 1), 0), ((3, 1), 1), ((1, 3), 0)])
def test_the_index_that_was_written_last_counts(sequences: tuple[int, int], current: int) -> None:
    """They follow each other 1, 2, 3, 1. Each has another slot in use here, and both labels are damaged."""
    area = bytearray(damaged(512 + 20)[:768] + damaged(768 + 20)[768:])
    for number, sequence in enumerate(sequences):
        block = bytearray(area[256 * number : 256 * (number + 1)])
        block[20:24] = sequence.to_bytes(4, "little")
        block[64:72] = bytes(8)
        block[72] = 0xFF ^ 1 << number
        block[64:72] = labels.fletcher64(bytes(block)).to_bytes(8, "little")
        area[256 * number : 256 * (number + 1)] = block
    assert labels.damage(bytes(area)) == f"the label in slot {current} is not what its checksum says"
