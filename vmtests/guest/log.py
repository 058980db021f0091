"""What a guest prints, kept and shown: a guest may be hostile, so the file has a limit and the terminal a filter."""

from __future__ import annotations

import threading
import unicodedata
from pathlib import Path
from types import TracebackType

#: No honest guest prints more; 64 MiB of console take minutes over the emulated serial port.
LIMIT = 64 << 20


def printable(text: str) -> str:
    """Return `text` with whatever could steer a terminal (escape sequences, bidi marks) in a visible form."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in "\n\t" or not unicodedata.category(character).startswith("C")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


class CappedLog:
    """A file that takes bytes as they come, up to a limit; beyond it, and on a full disk, it stops taking them.

    Nobody who writes a log wants to fail because of it: `lost` says what happened.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self.lost: str | None = None
        self._left = limit
        self._limit = limit
        self._lock = threading.Lock()
        # Unbuffered: what the guest said last must be in the file when we are killed.
        self._file = path.open("ab", buffering=0)

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
