"""The program `reseed` of the image: lets the guest's kernel use the randomness that it has been given, at once.

What is written to /dev/urandom only waits in the pool, for up to a minute (crng_reseed_interval() in 7.3.4's
drivers/char/random.c). Two guests that were restored from one snapshot would draw the same numbers until then. The
ioctl RNDRESEEDCRNG ends the wait; no program of Debian's does it, and no compiler need be there, so this is machine
code: `reseed </dev/urandom` is ioctl(0, RNDRESEEDCRNG).
"""

from __future__ import annotations

import struct

# fmt: off
_CODE = bytes([
    0xBE, 0x07, 0x52, 0x00, 0x00,  # mov esi, RNDRESEEDCRNG: _IO('R', 7), include/uapi/linux/random.h
    0x31, 0xFF,                    # xor edi, edi: stdin
    0xB8, 0x10, 0x00, 0x00, 0x00,  # mov eax, __NR_ioctl
    0x0F, 0x05,                    # syscall
    0x89, 0xC7,                    # mov edi, eax: 0, or minus an error number
    0xB8, 0x3C, 0x00, 0x00, 0x00,  # mov eax, __NR_exit
    0x0F, 0x05,                    # syscall
])
# fmt: on

_ADDRESS = 0x400000
_HEADER, _SEGMENT = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")


def program() -> bytes:
    """Return the program: a static ELF file of one segment."""
    start = _HEADER.size + _SEGMENT.size
    header = _HEADER.pack(
        b"\x7fELF\x02\x01\x01", 2, 62, 1, _ADDRESS + start, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, 1, 0, 0, 0
    )
    size = start + len(_CODE)
    return header + _SEGMENT.pack(1, 5, 0, _ADDRESS, _ADDRESS, size, size, 0x1000) + _CODE
