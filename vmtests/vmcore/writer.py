"""Writing the dump of a guest: an ELF vmcore that holds what was ever written, not the holes.

QEMU's dump-guest-memory reads all of guest memory, 100 GiB of holes too. Here the files behind the memory are asked
where they hold data, and that is copied from file to file; the notes (registers of each CPU, VMCOREINFO) are QEMU's
own, from a dump of a single page.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vmtests.elf import Note
from vmtests.errors import HostFailure
from vmtests.kernel.vmlinux import has_only_btf
from vmtests.memmap.layout import PAGE_SIZE
from vmtests.memmap.physical import Monitor, PhysicalMemory, regions
from vmtests.vmcore import elf
from vmtests.vmcore.about import About
from vmtests.vmcore.elf import Core, Segment
from vmtests.vmcore.nameless import nameless

#: A hole smaller than this does not end a segment: its zeros are in the dump, as a hole of the dump's own file.
GAP_BYTES = 1 << 20
#: crash and drgn look segments up one by one: where there would be more, larger holes are taken in too.
MOST_SEGMENTS = 2048

_COPY_BYTES = 64 << 20
#: Left free on the disk.
_SLACK_BYTES = 64 << 20
#: copy_file_range(2) does not go from one file system to another everywhere.
_NOT_HERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Vmcore:
    """A dump that was written.

    Args:
        path: the file.
        data_bytes: copied from the guest's memory.
        memory_bytes: of the guest's physical memory, holes included.
        segments: runs of data.
        stopped_seconds: how long the guest stood still.
    """

    path: Path
    data_bytes: int
    memory_bytes: int
    segments: int
    stopped_seconds: float


def write(file: Path, monitor: Monitor, about: About, *, most_bytes: int | None = None) -> Vmcore:
    """Write the dump of a guest, running or dead; a running one stands still meanwhile.

    Args:
        file: written whole or not at all; one that is there is replaced.
        monitor: of the guest's QEMU.
        about: what is told with it.
        most_bytes: refuse to write more than that.

    Raises:
        HostFailure: no room on the disk, or a guest without VMCOREINFO, which nobody could open.
    """
    begun = time.monotonic()
    with _standing_still(monitor), PhysicalMemory(regions(monitor)) as memory:
        data = [(region, list(memory.data(region))) for region in memory.regions]
        total = sum(end - first for _, ranges in data for first, end in ranges)
        _require_room(file, total, most_bytes)
        notes = (*_notes_of_qemu(monitor), about.note())
        core = _lay_out(notes, plan([(region.start, region.end, ranges) for region, ranges in data]))
        with _whole(file) as target:
            _put(target, core.pack(), 0)
            for segment in core.segments:
                end = segment.address + segment.stored
                for first, stop in (one for _, ranges in data for one in ranges if segment.address <= one[0] < end):
                    _copy(memory, first, stop - first, target, segment.offset + first - segment.address)
            os.truncate(target, max(one.offset + one.stored for one in core.segments))
    return Vmcore(
        path=file,
        data_bytes=total,
        memory_bytes=sum(region.size for region, _ in data),
        segments=len(core.segments),
        stopped_seconds=time.monotonic() - begun,
    )


def plan(parts: Sequence[tuple[int, int, Sequence[tuple[int, int]]]], most: int = MOST_SEGMENTS) -> list[Segment]:
    """Return the segments for a memory, their offsets still 0.

    Args:
        parts: for each region its first and end address, and those of its data in order; all whole pages.
        most: how many segments there should be at most, and always are where the regions are no more.
    """
    gap = GAP_BYTES
    while True:
        segments = [segment for part in parts for segment in _cut(*part, gap)]
        if len(segments) <= max(most, 2 * len(parts)):
            return segments
        gap *= 2


def _cut(start: int, end: int, data: Sequence[tuple[int, int]], gap: int) -> Iterator[Segment]:
    """Cut a region into segments, each a run of data and the hole behind it."""
    joined = [(start, start)]  # a hole in front makes a segment without bytes
    for first, stop in data:
        if first - joined[-1][1] < gap:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((first, stop))
    for (first, stop), (following, _) in zip(joined, [*joined[1:], (end, end)], strict=True):
        yield Segment(first, following - first, stop - first)


def _lay_out(notes: tuple[Note, ...], segments: Sequence[Segment]) -> Core:
    """Give the segments their places in the file: at whole pages, so that file systems may share the blocks."""
    at = elf.front_bytes(notes, len(segments))
    placed = []
    for segment in segments:
        at = -(-at // PAGE_SIZE) * PAGE_SIZE
        placed.append(replace(segment, offset=at))
        at += segment.stored
    return Core(notes, tuple(placed))


def _notes_of_qemu(monitor: Monitor) -> tuple[Note, ...]:
    """Return registers (NT_PRSTATUS, QEMU's own) and VMCOREINFO, from QEMU's dump of the first page."""
    with nameless() as file:
        monitor.execute("dump-guest-memory", paging=False, protocol=f"file:{file}", begin=0, length=PAGE_SIZE)
        notes = elf.read(file).notes
    if not any(note.name == "VMCOREINFO" for note in notes):
        raise HostFailure(
            "the guest gives no VMCOREINFO, without which no reader finds its way in a dump: it needs -device "
            "vmcoreinfo, CONFIG_KEXEC, CONFIG_CRASH_DUMP and CONFIG_FW_CFG_SYSFS, and a kernel that came to set it"
        )
    return notes


@contextmanager
def _standing_still(monitor: Monitor) -> Iterator[None]:
    """The guest's CPUs stand still inside; one that did so before does afterwards."""
    if not monitor.execute("query-status")["running"]:
        yield
        return
    monitor.execute("stop")
    try:
        yield
    finally:
        monitor.execute("cont")


def _require_room(file: Path, total: int, most: int | None) -> None:
    if most is not None and total > most:
        raise HostFailure(f"the dump {file} would have {total >> 20} MiB, more than the {most >> 20} MiB that it may")
    try:
        free = shutil.disk_usage(file.parent).free
    except OSError as error:
        raise HostFailure(f"the dump {file} cannot be written: {error.strerror}") from error
    if free < total + _SLACK_BYTES:
        raise HostFailure(
            f"the dump {file} needs {total >> 20} MiB, and {free >> 20} MiB are free there: free some, or name a file "
            "on a larger disk"
        )


@contextmanager
def _whole(file: Path) -> Iterator[int]:
    """Yield a new file's descriptor; it gets its name when the block is left without an exception.

    Until then it has none, where the file system can do so: then not even SIGKILL leaves it behind.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        try:
            target, named = os.open(file.parent, flags | os.O_TMPFILE, 0o600), False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            target, named = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        try:
            yield target
            if not named:
                # With a folder given, even one that an absolute path makes idle, os.link() follows the link in /proc.
                os.link(f"/proc/self/fd/{target}", temporary, src_dir_fd=target, follow_symlinks=True)
            temporary.rename(file)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(target)
    except OSError as error:
        raise HostFailure(f"the dump {file} cannot be written: {error.strerror}; nothing of it is left") from error


def _put(target: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(target, data, at)
        data, at = data[done:], at + done


def _copy(memory: PhysicalMemory, address: int, size: int, target: int, to: int) -> None:
    """Copy guest memory into the file, from file to file where that can be."""
    for source, path, offset, at, part in memory.pieces(address, size):
        done = 0
        while done < part:
            count = min(part - done, _COPY_BYTES)
            moved = _move(source, offset + done, target, to + at + done, count)
            if not moved:
                raise HostFailure(f"the guest's memory file {path} was cut short at byte {offset + done}")
            done += moved


def _move(source: int, offset: int, target: int, to: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, to)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    os.lseek(target, to, os.SEEK_SET)
    return os.sendfile(target, source, offset, count)


def how_to_open(file: Path, vmlinux: Path | None) -> tuple[str, ...]:
    """Return the commands that open a dump, to be pasted into a shell."""
    commands = [["vmtests", "memmap", "check", str(file)], ["vmtests", "drgn", str(file)]]
    # Of BTF alone, neither of these makes anything.
    if vmlinux is None or not has_only_btf(vmlinux):
        commands.append(["drgn", "-c", str(file), "-s", "VMLINUX" if vmlinux is None else str(vmlinux)])
        commands.append(["vmtests", "crash", str(file)])
    return tuple(map(shlex.join, commands))
