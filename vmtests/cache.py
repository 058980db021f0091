"""The cache: finished folders under a key, made once, whole or not at all.

Layout: `ROOT/KIND/KEY/` is an entry, `ROOT/KIND/.KEY.lock` its lock, `ROOT/KIND/.KEY.PID.tmp/` one that is being made.
An entry is made under its temporary name and renamed, so a kill in the middle leaves no half entry; the lock makes a
second run wait for the first instead of doing the same work; a dead maker's rest is removed by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from vmtests.errors import HostFailure


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
    if path.is_dir():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / f".{key}.lock", waiting=waiting):
        for rest in path.parent.glob(f".{key}.*.tmp"):
            shutil.rmtree(rest, ignore_errors=True)
        if path.is_dir():
            return path
        temporary = path.parent / f".{key}.{os.getpid()}.tmp"
        temporary.mkdir(mode=0o700)
        try:
            make(temporary)
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return path
