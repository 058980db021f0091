"""What the host is: its QEMU, its processors, its memory, its disk."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vmtests import cache
from vmtests.errors import HostFailure
from vmtests.host import packages, qemu

GIB = 1 << 30

#: What a sparse file is tried with: the backing file of a 100 GB NVDIMM is about as long.
_LONG = 101 * GIB


@dataclass(frozen=True)
class Host:
    """The machine that runs the tests."""

    # Such as "Debian GNU/Linux 12 (bookworm)".
    system: str
    qemu: Path
    qemu_version: str
    cpu: str
    # Processors that this process may use.
    cpus: int
    memory_bytes: int
    memory_available_bytes: int
    # The folder of the cache, where kernels, images and the guests' memory lie.
    cache: Path
    disk_free_bytes: int
    # Whether files there take up only what was written to them.
    sparse: bool
    # Debian packages that `vmtests setup` would install.
    packages_missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as what JSON knows."""
        facts = dataclasses.asdict(self)
        return {**facts, "qemu": str(self.qemu), "cache": str(self.cache)}

    def check_room(self, *, memory_bytes: int = 0, disk_bytes: int = 0) -> None:
        """Raise a HostFailure unless so much memory is available and so much disk is free in the cache."""
        if self.memory_available_bytes < memory_bytes:
            raise HostFailure(
                f"{_gib(memory_bytes)} of memory are needed and {_gib(self.memory_available_bytes)} of"
                f" {_gib(self.memory_bytes)} are available: end other programs, or use a machine with more"
            )
        if self.disk_free_bytes < disk_bytes:
            raise HostFailure(
                f"{_gib(disk_bytes)} of disk are needed and {_gib(self.disk_free_bytes)} are free in {self.cache}:"
                " free some, or set XDG_CACHE_HOME to a folder on a larger file system"
            )


def probe() -> Host:
    """Look at the host.

    Raises:
        HostFailure: it is no x86-64 Linux, has no QEMU, or one that is too old.
    """
    check_platform()
    found = qemu.find()
    folder = cache.root()
    total, available = memory()
    return Host(
        system=system(),
        qemu=found.path,
        qemu_version=found.version,
        cpu=cpu(),
        cpus=cpus(),
        memory_bytes=total,
        memory_available_bytes=available,
        cache=folder,
        disk_free_bytes=shutil.disk_usage(folder).free,
        sparse=keeps_sparse(folder),
        packages_missing=packages.missing(),
    )


def check_platform() -> None:
    """Raise a HostFailure unless this is Linux on x86-64."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise HostFailure(
            f"this host is {platform.system()} on {platform.machine()}: vmtests needs Linux on x86-64, for which"
            " kernels are compiled and whose programs are in the image"
        )


def system() -> str:
    """Return the name of the operating system."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def cpu() -> str:
    """Return the processor's model name."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def memory() -> tuple[int, int]:
    """Return the bytes of memory that there are and that are available, to this process's control group too."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for limit, used in _group_limits():
        total = min(total, limit)
        available = min(available, max(limit - used, 0))
    return total, available


def _group_limits() -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of our control group (version 2) and those above it that have a limit."""
    top = Path("/sys/fs/cgroup")
    try:
        own = top / Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    except OSError:
        return
    for group in (own, *own.parents):
        if not group.is_relative_to(top):
            return
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        except (OSError, ValueError):  # the root group has no such files; no limit is the word "max"
            continue
        # The page cache counts as used, but goes when memory is asked for.
        yield limit, used - (int(cached[1]) if cached else 0)


def keeps_sparse(folder: Path) -> bool:
    """Return whether a long file in the folder takes up only what was written to it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            file.truncate(_LONG)
            os.pwrite(file.fileno(), b"\1", _LONG // 2)
            # Some file systems count blocks only when they have placed them.
            os.fsync(file.fileno())
        except OSError:  # too long for the file system, or for this process's limit
            return False
        return os.fstat(file.fileno()).st_blocks * 512 < 16 << 20


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
