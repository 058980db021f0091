"""What a guest prints, kept: a guest may be hostile, so the file has a limit."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

#: No honest guest prints more; 64 MiB of console take minutes over the emulated serial port.
LIMIT = 64 << 20


class CappedLog:
    """A file that takes bytes as they come, up to a limit; beyond it, and on a full disk, it stops taking them.

    Nobody who writes a log wants to fail because of it: `lost` says what happened.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self.lost: str | None = None
        self._limit = limit
        self._lock = threading.Lock()
        # Unbuffered: what the guest said last must be in the file when we are killed.
        self._file = path.open("ab", buffering=0)
        # A restored guest's console begins with what was said before the snapshot.
        self._left = max(0, limit - self._file.tell())

    def write(self, data: bytes) -> None:
        with self._lock:
            if self.lost is not None or self._file.closed:
                return
            try:
                self._file.write(data[: self._left])
                self._left -= len(data)
                if self._left < 0:
                    self.lost = f"the rest is not kept: {self._limit} bytes are the limit"
                    self._file.write(f"\n[vmtests: {self.lost}]\n".encode())
            except OSError as error:
                self.lost = f"the rest is not kept: {error.strerror}"

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def __enter__(self) -> CappedLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
