"""The private place of one guest: sockets in a short path, big sparse files in the cache, gone with its owner.

Layout: `GUESTS/ID/` for files and `SOCKETS/ID/` for sockets (whose paths may have 107 bytes), both 0700, each with a
file `.alive` that the owner keeps locked. A folder whose lock can be had belongs to nobody any more, and the next start
removes it. `.lock` beside them keeps a sweep away from a folder that is just being made. The lock belongs to the open
file, so a process that inherits it owns the folder as well: that is how a guest's supervisor keeps one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType

import psutil

from vmtests import cache
from vmtests.errors import HostFailure
from vmtests.guest import admission, size
from vmtests.guest.admission import NOTHING, Claim

#: How long a guest waits until others, of other runs too, have ended.
WAIT_SECONDS = 3600.0

_ALIVE = ".alive"
_LOCK = ".lock"

#: sun_path of struct sockaddr_un holds 108 bytes, the terminating zero among them.
SOCKET_PATH_BYTES = 107


def guests() -> Path:
    """Return the folder of all guests' files."""
    return _private(cache.root() / "guests")


def sockets() -> Path:
    """Return the folder of all guests' sockets."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK | os.X_OK) and len(os.fsencode(runtime)) < SOCKET_PATH_BYTES // 2:
        return _private(Path(runtime) / "vmtests")
    return _private(Path("/tmp") / f"vmtests-{os.getuid()}")


def _private(path: Path) -> Path:
    """Make a folder that only we can enter, and refuse one that somebody else has put there."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise HostFailure(
            f"{path} must be a folder of our own with mode 0700, but is {stat.filemode(found.st_mode)} of user "
            f"{found.st_uid}: remove it"
        )
    return path


class Workspace:
    """The folders of one guest, `files` and `sockets`; leaving the context removes them.

    Args:
        claim: what the guest takes of the host; by default nothing.
        tell: called with a line when the guest has to wait until others have ended.

    Raises:
        HostFailure: there is no room for it, not even after a long wait.
    """

    def __init__(self, claim: Claim = NOTHING, tell: Callable[[str], None] = lambda _: None) -> None:
        self.id = f"guest-{secrets.token_hex(4)}"
        files = _admitted(claim, self.id, tell)
        try:
            links = _Owned(sockets(), self.id)
        except BaseException:
            files.remove()
            raise
        self._owned = (files, links)
        self.files, self.sockets = files.folder, links.folder

    @property
    def locks(self) -> tuple[int, ...]:
        """The locked files, by descriptor: a process that inherits them owns the folders too."""
        return tuple(owned.sign.fileno() for owned in self._owned)

    def socket(self, name: str) -> Path:
        """Return the path for a socket called `name`."""
        path = self.sockets / name
        assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES
        return path

    def sparse(self, name: str, size_bytes: int) -> Path:
        """Make an empty file of `size_bytes` that may grow to its whole size.

        Raises:
            HostFailure: the disk has not that much room.
        """
        path = self.files / name
        require_room(path.parent, size_bytes, f"the guest's file {name}")
        with path.open("xb") as handle:
            handle.truncate(size_bytes)
        return path

    def close(self) -> None:
        for owned in self._owned:
            owned.remove()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @staticmethod
    def sweep() -> list[Path]:
        """Remove what dead owners have left, QEMUs included, and return the folders that went."""
        return [folder for parent in (guests(), sockets()) for folder in _sweep(parent)]


def require_room(folder: Path, size_bytes: int, what: str) -> None:
    """Refuse to begin what the disk has no room for."""
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise HostFailure(
            f"{what} needs up to {size.text(size_bytes)} in {folder}, where {free // size.MIB} MiB are free: "
            "free some, or set XDG_CACHE_HOME to a folder on a larger disk"
        )


def _admitted(claim: Claim, name: str, tell: Callable[[str], None]) -> _Owned:
    """Make the folder of a guest's files as soon as the host has room for the guest."""
    parent = guests()
    deadline = time.monotonic() + WAIT_SECONDS
    told = False
    while True:
        with cache.locked(parent / _LOCK, seconds=60):
            obstacle = admission.obstacle(claim, (folder for folder in _folders(parent) if alive(folder)))
            if obstacle is None:
                owned = _Owned(parent, name, lock=False)
                admission.write(owned.folder, claim)
                return owned
        if obstacle.for_good or time.monotonic() > deadline:
            raise HostFailure(obstacle.text)
        if not told:
            told = True
            tell(f"waiting: {obstacle.text}")
        time.sleep(0.2)  # a lock that somebody holds gives no event


class _Owned:
    """A folder whose sign of life, the locked file `sign`, we hold."""

    def __init__(self, parent: Path, name: str, *, lock: bool = True) -> None:
        self.folder = parent / name
        with cache.locked(parent / _LOCK, seconds=60) if lock else nullcontext():
            self.folder.mkdir(mode=0o700)
            try:
                self.sign = (self.folder / _ALIVE).open("w")
                fcntl.flock(self.sign, fcntl.LOCK_EX)
            except BaseException:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.sign.close()


def _sweep(parent: Path) -> Iterator[Path]:
    with cache.locked(parent / _LOCK, seconds=60):
        for folder in _folders(parent):
            if not alive(folder):
                _kill_users(folder)
                shutil.rmtree(folder, ignore_errors=True)
                yield folder


def _folders(parent: Path) -> list[Path]:
    return [folder for folder in parent.iterdir() if folder.is_dir() and not folder.is_symlink()]


def alive(folder: Path) -> bool:
    """Return whether a guest's folder has an owner."""
    try:
        with (folder / _ALIVE).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False  # its maker died before the lock: makers hold the parent's lock until theirs is there
    return False


def _kill_users(folder: Path) -> None:
    """Kill a QEMU that outlived its owner: one that was started in the instant before its death signal was set."""
    for process in psutil.process_iter(["cmdline"]):
        program, *words = process.info["cmdline"] or [""]
        if "qemu" in program and any(f"{folder}/" in word for word in words):
            with suppress(psutil.Error):
                process.kill()
