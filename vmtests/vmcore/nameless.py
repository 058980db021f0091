"""Files without a name, for other programs to open: nothing is left of them, however we end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nameless(content: bytes = b"") -> Iterator[Path]:
    """Yield the path by which a program of the same user can open a file in memory, as long as the block lasts."""
    descriptor = os.memfd_create("vmtests")
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)
