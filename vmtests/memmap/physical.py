"""The guest's physical memory as the host's files hold it: where each address lies, read and written there.

By pread and pwrite, not by mmap: a file that is cut short under a mapping kills the reader with SIGBUS, here it is an
error with a name.
"""

from __future__ import annotations

import errno
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vmtests.errors import HostFailure
from vmtests.memmap.layout import PAGE_SIZE

#: A line of QEMU's `info mtree -f`: "0000000100000000-000000019fffffff (prio 0, nv-ram): m0 @0000000080000000".
_RANGE = re.compile(
    r"^ +(?P<first>[0-9a-f]{16})-(?P<last>[0-9a-f]{16}) \(prio -?\d+, (?:nv-)?(?:ram|rom)\): (?P<name>\S+)"
    r"(?: @(?P<offset>[0-9a-f]{16}))?"
)


class Monitor(Protocol):
    """What is needed of QEMU's monitor."""

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return its answer."""


@dataclass(frozen=True)
class Region:
    """`size` bytes of guest physical memory from `start` on, at `offset` in `file`."""

    start: int
    size: int
    file: Path
    offset: int

    @property
    def end(self) -> int:
        return self.start + self.size


def regions(monitor: Monitor) -> tuple[Region, ...]:
    """Ask QEMU where guest physical memory lies in the host's files, in order of address.

    QEMU itself is asked, because its machine types split RAM around their holes each in its own way.

    Raises:
        HostFailure: no memory of the guest is in a file.
    """
    files: dict[str, Path] = {}
    for item in monitor.execute("qom-list", path="/objects"):
        if item["type"] == "child<memory-backend-file>":
            path = f"/objects/{item['name']}"
            if not monitor.execute("qom-get", path=path, property="share"):
                continue  # the guest's writes are private to QEMU
            file = Path(monitor.execute("qom-get", path=path, property="mem-path"))
            # The block of RAM is called after the object, or by its whole path (`x-use-canonical-path-...`).
            files[item["name"]] = files[path] = file
    text = monitor.execute("human-monitor-command", **{"command-line": "info mtree -f"})
    found = parse_flat_view(text, files)
    if not found:
        raise HostFailure(
            "no memory of the guest is in a shared file (memory-backend-file,share=on): it cannot be read"
        )
    return found


def parse_flat_view(text: str, files: Mapping[str, Path]) -> tuple[Region, ...]:
    """Return the regions of the address space "memory" in the output of `info mtree -f` that lie in `files`."""
    for view in re.split(r"^FlatView #\d+\s*$", text, flags=re.MULTILINE):
        if ' AS "memory",' in view:
            hits = [hit for hit in map(_RANGE.match, view.splitlines()) if hit and hit["name"] in files]
            found: list[Region] = []
            for hit in hits:
                start, end, offset = int(hit["first"], 16), int(hit["last"], 16) + 1, int(hit["offset"] or "0", 16)
                file = files[hit["name"]]
                last = found[-1] if found else None
                if last and (last.end, last.file, last.offset + last.size) == (start, file, offset):
                    found[-1] = Region(
                        last.start, end - last.start, file, last.offset
                    )  # cut only by the firmware's ROMs
                else:
                    found.append(Region(start, end - start, file, offset))
            return tuple(found)
    raise HostFailure("QEMU's `info mtree -f` shows no address space called memory", output=text[-2000:])


class PhysicalMemory:
    """The files behind the guest's physical memory, open for as long as this context manager is entered."""

    def __init__(self, regions: Sequence[Region], *, writable: bool = False) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.start))
        self._writable = writable
        self._files: dict[Path, int] = {}
        self._stack = ExitStack()
        self._starts = np.array([region.start for region in self.regions], dtype=np.int64)
        self._bounds = [region.start for region in self.regions]
        self._ends = np.array([region.end for region in self.regions], dtype=np.int64)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for file in {region.file for region in self.regions}:
                try:
                    descriptor = os.open(file, (os.O_RDWR if self._writable else os.O_RDONLY) | os.O_CLOEXEC)
                except OSError as error:
                    raise HostFailure(f"the guest's memory file {file} cannot be opened: {error.strerror}") from error
                stack.callback(os.close, descriptor)
                self._files[file] = descriptor
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()
        self._stack.close()

    def contains(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each physical address of a page whether its memory is in one of the files."""
        if not self.regions:
            return np.zeros(frames.shape, dtype=bool)
        index = np.maximum(np.searchsorted(self._starts, frames, side="right") - 1, 0)
        inside: NDArray[np.bool_] = (frames >= self._starts[index]) & (frames + PAGE_SIZE <= self._ends[index])
        return inside

    def written(self, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each physical address of a page whether its file holds data there, or a hole."""
        extents = np.array([extent for region in self.regions for extent in self.data(region)], dtype=np.int64)
        if not len(extents):
            return np.zeros(frames.shape, dtype=bool)
        index = np.maximum(np.searchsorted(extents[:, 0], frames, side="right") - 1, 0)
        inside: NDArray[np.bool_] = (frames >= extents[index, 0]) & (frames < extents[index, 1])
        return inside

    def data(self, region: Region) -> Iterator[tuple[int, int]]:
        """Yield the physical addresses, first and end, of the region's parts that are no holes in its file."""
        descriptor, end = self._files[region.file], region.offset + region.size
        at = region.offset
        while at < end:
            try:
                first = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            at = min(os.lseek(descriptor, first, os.SEEK_HOLE), end)
            if first < end:
                yield region.start + first - region.offset, region.start + at - region.offset

    def read_into(self, view: memoryview, address: int) -> None:
        """Fill `view` with the bytes from the physical `address` on."""
        for descriptor, file, offset, at, size in self.pieces(address, len(view)):
            try:
                got = os.preadv(descriptor, [view[at : at + size]], offset)
            except OSError as error:
                raise HostFailure(f"reading the guest's memory from {file} failed: {error.strerror}") from error
            if got != size:
                raise HostFailure(
                    f"the guest's memory file {file} ends at byte {offset + got}, the guest's memory does not: "
                    "it was cut short while QEMU was using it"
                )

    def read_frames(self, view: memoryview, frames: NDArray[np.int64]) -> None:
        """Fill `view` with the pages at the physical addresses `frames`, in this order; neighbours in one go."""
        index = np.searchsorted(self._starts, frames, side="right") - 1
        cuts = np.flatnonzero((np.diff(frames) != PAGE_SIZE) | (np.diff(index) != 0)) + 1
        begins = np.concatenate(([0], cuts))
        ends = np.append(cuts, len(frames))
        for begin, end, address in zip(begins.tolist(), ends.tolist(), frames[begins].tolist(), strict=True):
            self.read_into(view[begin * PAGE_SIZE : end * PAGE_SIZE], address)

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes from the physical `address` on."""
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), address)
        return bytes(buffer)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` from the physical `address` on; the guest sees it at once."""
        view = memoryview(data)
        for descriptor, file, offset, at, size in self.pieces(address, len(view)):
            while size:
                try:
                    put = os.pwrite(descriptor, view[at : at + size], offset)
                except OSError as error:
                    raise HostFailure(f"writing the guest's memory to {file} failed: {error.strerror}") from error
                at, offset, size = at + put, offset + put, size - put

    def pieces(self, address: int, size: int) -> Iterator[tuple[int, Path, int, int, int]]:
        """Yield where the bytes from the physical `address` on lie, in order.

        Each is (descriptor, file, offset in the file, offset in the whole, size).
        """
        done = 0
        while done < size:
            index = bisect_right(self._bounds, address + done) - 1
            if index < 0 or address + done >= self.regions[index].end:
                raise HostFailure(f"guest physical address {address + done:#x} is in none of the host's files")
            region = self.regions[index]
            inside = address + done - region.start
            part = min(size - done, region.size - inside)
            yield self._files[region.file], region.file, region.offset + inside, done, part
            done += part
