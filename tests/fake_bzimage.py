"""Kernel files as far as vmtests reads them: a bzImage with its header, a vmlinux with its notes, banner and config."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

BANNER = (
    b"Linux version 7.3.4+deb13-cloud-amd64 (debian-kernel@lists.debian.org) "
    b"(x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0, GNU ld (GNU Binutils for Debian) 2.44) "
    b"#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1~bpo13+1 (2026-11-15)\n"
)

#: Sectors of real-mode code before the payload's segment, and where the payload begins in that.
_SECTORS, _OFFSET = 3, 0x2CC


def bzimage(path: Path, payload: bytes) -> Path:
    """Write a bzImage with this payload (Documentation/arch/x86/boot.rst)."""
    header = bytearray((1 + _SECTORS) * 512)
    header[0x1F1] = _SECTORS
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, _OFFSET, len(payload))
    path.write_bytes(bytes(header) + bytes(_OFFSET) + payload + b"what stands behind it")
    return path


def vmlinux(build_id: str, *, section: str = ".BTF", config: str | None = None) -> bytes:
    """Return an ELF file with a build id and one section, and in it the banner and, if it is given, the config."""
    note = struct.pack("<III", 4, len(build_id) // 2, 3) + b"GNU\0" + bytes.fromhex(build_id)
    content = BANNER
    if config is not None:
        content += b"IKCFG_ST" + gzip.compress(config.encode(), mtime=0) + b"IKCFG_ED"
    strings = b"\0" + section.encode() + b"\0"
    at = 64 + 56
    notes_at, content_at = at, at + len(note)
    strings_at = content_at + len(content)
    table_at = strings_at + len(strings)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, table_at, 0, 64, 56, 1, 64, 3, 2)
    program = struct.pack("<IIQQQQQQ", 4, 4, notes_at, 0, 0, len(note), len(note), 4)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, content_at, len(content), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, strings_at, len(strings), 0, 0, 1, 0)
    return ident + header + program + note + content + strings + sections
