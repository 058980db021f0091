"""A guest to be dumped that is only files: its monitor answers as QEMU does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmtests.elf import Note
from vmtests.memmap.known import Known
from vmtests.vmcore import About
from vmtests.vmcore.elf import Core

BUILD_ID = "3c03c4633b849c1b227cc86fd0c252e785c3942e"
VMCOREINFO = f"OSRELEASE=7.3.4\nBUILD-ID={BUILD_ID}\nPAGESIZE=4096\n"
#: What QEMU says of each CPU: elf_prstatus is opaque here.
PRSTATUS = Note("CORE", 1, bytes(range(256)) + bytes(80))


class FakeMonitor:
    """Knows regions (address, size, file, offset) and writes QEMU's notes when it is asked for a dump.

    Args:
        regions: of guest physical memory.
        vmcoreinfo: what the kernel says of itself, if it does.
        running: whether the CPUs run.
    """

    def __init__(
        self, regions: list[tuple[int, int, Path, int]], *, vmcoreinfo: str | None = VMCOREINFO, running: bool = True
    ) -> None:
        self.regions = regions
        self.vmcoreinfo = vmcoreinfo
        self.running = running
        self.said: list[str] = []

    def execute(self, command: str, **arguments: Any) -> Any:
        self.said.append(command)
        return getattr(self, command.replace("-", "_"))(**arguments)

    def query_status(self) -> Mapping[str, Any]:
        return {"running": self.running, "status": "running" if self.running else "shutdown"}

    def stop(self) -> None:
        self.running = False

    def cont(self) -> None:
        self.running = True

    def qom_list(self, path: str) -> list[Mapping[str, str]]:
        assert path == "/objects"
        names = dict.fromkeys(file.name for _, _, file, _ in self.regions)
        return [{"name": name, "type": "child<memory-backend-file>"} for name in names]

    def qom_get(self, path: str, property: str) -> Any:
        if property == "share":
            return True
        return str(next(file for _, _, file, _ in self.regions if file.name == path.rpartition("/")[2]))

    def human_monitor_command(self, **arguments: str) -> str:
        assert arguments == {"command-line": "info mtree -f"}
        lines = [
            f"  {start:016x}-{start + size - 1:016x} (prio 0, ram): {file.name} @{offset:016x}"
            for start, size, file, offset in self.regions
        ]
        return "\n".join(['FlatView #1\n AS "memory", root: system', *lines])

    def dump_guest_memory(self, *, paging: bool, protocol: str, begin: int, length: int) -> None:
        assert not self.running, "the guest ran on while it was dumped"
        assert (paging, begin, length) == (False, 0, 4096)
        notes = [PRSTATUS, PRSTATUS]
        if self.vmcoreinfo is not None:
            notes.append(Note("VMCOREINFO", 0, self.vmcoreinfo.encode()))
        Path(protocol.removeprefix("file:")).write_bytes(Core(tuple(notes), ()).pack())


def about(*memmaps: Known) -> About:
    return About(
        kernel="base",
        release="7.3.4",
        vmlinux=Path("/somewhere/vmlinux"),
        config={"CONFIG_X86_64": "y", "CONFIG_NODES_SHIFT": "6"},
        memmaps=memmaps,
        reason="a test",
        written="2026-11-23T07:00:00+00:00",
    )
