"""Snapshots: a guest as it waits for its keys, from which others start without booting.

An entry `snapshots/KEY/` of the cache has `ram` and its like (Machine.ram_files), the guest's memory as sparse files;
`state`, that of its devices, as QEMU's migration writes it (x-ignore-shared leaves the memory out); `console.log`, what
was printed until then; and `snapshot.json`. It holds no key and no session, and there was no NVDIMM yet. Its key names
all that it depends on: kernel, image, machine, the kernel's command line, QEMU, the host's processor.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from vmtests import cache
from vmtests.errors import HostFailure
from vmtests.guest import sparse
from vmtests.guest.launch import Launched, Plan, launch
from vmtests.guest.machine import Wiring
from vmtests.host import facts, qemu

#: What images/init prints before it reads from the port that the keys come through; see start.READY.
WAITING = r"vmtests: waiting for keys\s*(?:$|\[)"

#: Part of every key: count it up when what is kept, or when it is taken, changes.
_FORMAT = 1

#: How many snapshots are kept that nobody uses: those used longest ago go first.
KEPT = 24

#: How long QEMU may take to write or read its state, which has some 100 kB.
STATE_SECONDS = 60.0


class Unrestorable(HostFailure):
    """A snapshot cannot be used; a cold boot can do without it."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in the cache."""

    folder: Path
    #: Of each file of the memory, by its name.
    ram_checksums: Mapping[str, int]
    state_sha256: str

    @classmethod
    def take(cls, plan: Plan, *, seconds: float, silence: float) -> Self:
        """Return the snapshot of such a guest; if there is none, boot one from cold to its wait for the keys.

        Args:
            plan: what to boot; its logs take the evidence of that boot.
            seconds, silence: how long it may take, and how long its console may say nothing.

        Raises:
            KernelFailure, HostFailure: the kernel does not come so far.
            Unrestorable: QEMU cannot write down its state.
        """

        def fill(folder: Path) -> None:
            launched = launch(replace(plan, supervised=False))
            with launched.lifetime:
                launched.console.wait_for(WAITING, seconds, silence=silence, what=f"booting kernel {plan.kernel.name}")
                _write(launched, folder / "state")
                for file, _ in plan.machine.ram_files(launched.ram):
                    _take_over(file, folder / file.name)
            shutil.copy(plan.logs.console, folder / "console.log")
            said = {
                "kernel": plan.kernel.name,
                "release": plan.kernel.release,
                "machine": repr(plan.machine),
                "ram_checksums": {
                    file.name: sparse.checksum(file) for file, _ in plan.machine.ram_files(folder / "ram")
                },
                "state_sha256": _sha256((folder / "state").read_bytes()),
            }
            (folder / "snapshot.json").write_text(json.dumps(said, indent=1) + "\n")
            _evict()

        waiting = "waiting: another run takes its snapshot"
        folder = cache.entry("snapshots", _key(plan), fill, waiting=lambda: plan.tell(waiting))
        try:
            said = json.loads((folder / "snapshot.json").read_text())
            return cls(folder, said["ram_checksums"], said["state_sha256"])
        except (OSError, ValueError, KeyError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise Unrestorable(f"the snapshot {folder} is damaged ({error!r})") from error

    def launch(self, plan: Plan) -> Launched:
        """Start a QEMU that goes on where the snapshot was taken, on a memory file of its own.

        Raises:
            Unrestorable: the snapshot is damaged, or QEMU does not take it.
        """
        state = self.folder / "state"
        try:
            if _sha256(state.read_bytes()) != self.state_sha256:
                raise Unrestorable(f"the snapshot {self.folder} is damaged: its file state has changed")
            shutil.copyfile(self.folder / "console.log", plan.logs.console)
        except OSError as error:
            raise Unrestorable(f"the snapshot {self.folder} cannot be read: {error}") from error
        with plan.logs.console.open("a") as console:
            console.write("[vmtests: restored from here on]\n")
        launched = launch(plan, content=lambda file: sparse.copy(self.folder / file.name, file))
        try:
            monitor = launched.monitor
            _prepare(launched)
            with state.open("rb") as file:
                monitor.pass_file("state", file.fileno())
            monitor.execute("migrate-incoming", uri="fd:state")
            _migrated(launched, "reading the snapshot")
            monitor.execute("cont")
        except BaseException as error:
            launched.lifetime.close()
            if isinstance(error, HostFailure):
                raise Unrestorable(f"QEMU does not take the snapshot {self.folder}: {error.message}") from error
            raise
        return launched

    def verify(self) -> Callable[[], None]:
        """Begin to compare the memory with its checksum; what is returned waits for the end of that.

        It raises Unrestorable if they differ, or if the memory cannot be read.
        """
        found: dict[str, int] = {}

        def work() -> None:
            with suppress(OSError):
                for name in self.ram_checksums:
                    found[name] = sparse.checksum(self.folder / name)

        thread = threading.Thread(target=work, name="verify-snapshot", daemon=True)
        thread.start()

        def join() -> None:
            thread.join()
            if found != self.ram_checksums:
                raise Unrestorable(f"the snapshot {self.folder} is damaged: its memory has changed")

        return join

    def discard(self) -> None:
        """Let the next guest take a new one; who uses this one has a copy."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _take_over(file: Path, to: Path) -> None:
    """Keep the memory of a guest that is about to end."""
    try:
        to.hardlink_to(file)
    except OSError:  # another file system
        with to.open("xb") as empty:
            empty.truncate(file.stat().st_size)
        sparse.copy(file, to)


def _prepare(launched: Launched) -> None:
    capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
    launched.monitor.execute("migrate-set-capabilities", capabilities=capabilities)


def _write(launched: Launched, state: Path) -> None:
    """Stop the guest and write the state of its devices."""
    monitor = launched.monitor
    try:
        monitor.execute("stop")
        _prepare(launched)
        with state.open("wb") as file:
            monitor.pass_file("state", file.fileno())
            monitor.execute("migrate", uri="fd:state")
            _migrated(launched, "taking a snapshot")
    except HostFailure as error:
        raise Unrestorable(f"this QEMU takes no snapshot: {error.message}") from error


def _migrated(launched: Launched, what: str) -> None:
    """Wait for the end of a migration.

    Raises:
        HostFailure: it failed.
    """

    def ended() -> Any:
        states = [event["data"]["status"] for event in launched.monitor.events() if event["event"] == "MIGRATION"]
        return next((state for state in states if state in ("completed", "failed", "cancelled")), None)

    if launched.death.wait(ended, STATE_SECONDS, what, outlive=True) != "completed":
        raise HostFailure(f"{what} failed", output=launched.process.said())


def _key(plan: Plan) -> str:
    kernel = plan.kernel
    wiring = Wiring(
        name="snapshot",
        kernel=Path("kernel"),
        initrd=Path("initrd"),
        append=plan.machine.command_line(plan.append),
        ram=Path("ram"),
        drgn=Path("drgn"),
        console="console",
        monitor="monitor",
        keys="keys",
    )
    parts = [
        str(_FORMAT),
        kernel.release,
        _content(kernel.image, _stamp(kernel.image)),
        plan.image.sha256,
        *plan.machine.argv(wiring),
        *_qemu(),
        facts.cpu(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@functools.cache
def _qemu() -> tuple[str, ...]:
    found = qemu.find()
    return (str(found.path), found.version, str(_stamp(found.path)))


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@functools.cache
def _content(path: Path, _stamp: tuple[int, int]) -> str:
    return _sha256(path.read_bytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _evict() -> None:
    """Free the snapshots that were used longest ago."""
    there = [entry for entry in cache.entries() if entry.kind == "snapshots" and not entry.in_use]
    for entry in there[KEPT:]:
        cache.free(entry)
