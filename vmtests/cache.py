"""The cache: finished folders under a key, made once, whole or not at all.

Layout: `ROOT/KIND/KEY/` is an entry, `ROOT/KIND/.KEY.lock` its lock, `ROOT/KIND/.KEY.PID.tmp/` one that is being made.
An entry is made under its temporary name and renamed, so a kill in the middle leaves no half entry; the lock makes a
second run wait for the first instead of doing the same work; a dead maker's rest goes with the next start. A process
that has asked for an entry holds a shared lock on its folder until it ends, and the folder's time of modification is
that of the last use: what may be freed, and what should be.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from vmtests.errors import HostFailure

# The entries that this process has asked for, and the descriptors of their locks.
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class Entry:
    """A finished entry: `size_bytes` on the disk, `used` last at this time since the epoch."""

    path: Path
    size_bytes: int
    used: float
    in_use: bool

    @property
    def kind(self) -> str:
        """The room in the cache, such as "kernels"."""
        return self.path.parent.name


def root() -> Path:
    """Return the cache's folder, `$XDG_CACHE_HOME/vmtests`, made if need be."""
    path = platformdirs.user_cache_path("vmtests")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise HostFailure(
            f"the cache folder {path} cannot be made ({error.strerror}): set XDG_CACHE_HOME to a folder you may write"
        ) from error
    return path


@contextmanager
def locked(path: Path, *, seconds: float = 3600.0, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which stays behind, empty.

    Args:
        path: the lock file; its folder must exist.
        seconds: how long to wait for another holder before it is a HostFailure.
        waiting: called once when another process holds the lock.
    """
    with path.open("a") as handle:
        deadline = time.monotonic() + seconds
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise HostFailure(
                        f"{path} has been locked by another run for {seconds:.0f} s: end that run, or wait for it"
                    ) from None
                if waiting is not None and not told:
                    waiting()
                    told = True
                time.sleep(0.1)  # flock() has no deadline of its own
        yield


def find(kind: str, key: str) -> Path | None:
    """Return the finished entry, or None."""
    path = root() / kind / key
    return path if path.is_dir() else None


def entry(
    kind: str,
    key: str,
    make: Callable[[Path], None],
    *,
    waiting: Callable[[], None] | None = None,
) -> Path:
    """Return the entry's folder; if it is not there, let `make` fill a temporary one, then rename it.

    Args:
        kind: the room in the cache, such as "kernels".
        key: the entry's name; whatever its content depends on must be part of it.
        make: fills the empty folder that it is given; what it raises leaves nothing behind.
        waiting: called once when another process is making the same entry.
    """
    path = root() / kind / key
    while not (path.is_dir() and hold(path) is not None):
        _make(path, make, waiting)
    return path


def hold(path: Path) -> int | None:
    """Keep an entry from being freed as long as this process lives, or whoever inherits the descriptor returned.

    Returns None when it has just been freed.
    """
    try:
        there = path.stat()
        if path in _held and not os.path.samestat(os.fstat(_held[path]), there):
            os.close(_held.pop(path))  # that one is gone
        if path not in _held:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not os.path.samestat(os.fstat(descriptor), path.stat()):
                os.close(descriptor)
                return None
            _held[path] = descriptor
        os.utime(path)
    except FileNotFoundError:
        return None
    return _held[path]


def entries() -> list[Entry]:
    """Return all finished entries, those first that were used last."""
    found = []
    for path in root().glob("*/*"):
        # Whatever else is in the cache has no lock beside it.
        if path.is_dir() and not path.is_symlink() and path.with_name(f".{path.name}.lock").exists():
            with suppress(FileNotFoundError):  # it is just being freed
                found.append(Entry(path, bytes_of(path), path.stat().st_mtime, in_use=not alone(path)))
    return sorted(found, key=lambda entry: -entry.used)


def bytes_of(folder: Path) -> int:
    """Return the bytes on the disk that a folder takes: of a file that several share by hard links, its part."""
    size = 0
    for _, _, names, place in os.fwalk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it has just gone
                status = os.stat(name, dir_fd=place, follow_symlinks=False)
                size += status.st_blocks * 512 // status.st_nlink
    return size


def choose(entries: Sequence[Entry], now: float, age: float | None, size: int | None) -> list[Entry]:
    """Return the entries to free: those not used for `age` seconds, and the oldest until `size` bytes are left."""
    chosen = []
    left = sum(entry.size_bytes for entry in entries)
    for entry in sorted(entries, key=lambda entry: entry.used):
        old = age is not None and now - entry.used >= age
        if not entry.in_use and (old or (size is not None and left > size)):
            chosen.append(entry)
            left -= entry.size_bytes
    return chosen


def free(entry: Entry) -> bool:
    """Remove an entry unless somebody uses it or makes it again; return whether it went."""
    path = entry.path
    with suppress(HostFailure, FileNotFoundError), locked(path.with_name(f".{path.name}.lock"), seconds=0):
        if alone(path):
            gone = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            return True
    return False


def sweep() -> list[Path]:
    """Remove what killed makers have left, gigabytes if it was a kernel, and return the folders that went.

    The lock of a maker that lives cannot be had.
    """
    gone = []
    for rest in root().glob("*/.*.tmp"):
        key = rest.name[1:].rsplit(".", 2)[0]
        with suppress(HostFailure), locked(rest.with_name(f".{key}.lock"), seconds=0):
            shutil.rmtree(rest, ignore_errors=True)
            gone.append(rest)
    return gone


def remove(path: Path) -> None:
    """Remove an entry of our own that nobody else has ever heard of."""
    if (descriptor := _held.pop(path, None)) is not None:
        os.close(descriptor)
    shutil.rmtree(path, ignore_errors=True)
    path.with_name(f".{path.name}.lock").unlink(missing_ok=True)


def alone(path: Path) -> bool:
    """Return whether nobody, we included, holds the entry."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _make(path: Path, make: Callable[[Path], None], waiting: Callable[[], None] | None) -> None:
    key = path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / f".{key}.lock", waiting=waiting):
        for rest in path.parent.glob(f".{key}.*.tmp"):
            shutil.rmtree(rest, ignore_errors=True)
        if path.is_dir():
            return
        temporary = path.parent / f".{key}.{os.getpid()}.tmp"
        temporary.mkdir(mode=0o700)
        try:
            make(temporary)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
