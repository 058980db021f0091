"""The sealed bench: one boot of one kernel that binds a prepared namespace alone, for the exact count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests import cache
from vmtests.errors import HostFailure, UsageError
from vmtests.memmap import open_vmlinux, pgmap_offsets
from vmtests.pmem import BackingFile, NamespaceSpec, Nvdimm, Prepared, create_namespace, plug
from vmtests.record import GuestEntry, NamespaceEntry
from vmtests.timing import sealed
from vmtests.timing.rebind import Bind

if TYPE_CHECKING:
    from vmtests.run.run import Run

#: Part of every prepared namespace's key: count it up when they are taken differently.
_FORMAT = 1


@dataclass(frozen=True)
class SealedBench:
    """What a test of the sealed rig holds: one boot of one kernel.

    Attributes:
        kernel: by name.
        boot: which of this kernel it is, from 0.
        pmem_size: bytes; what the options say by default.
        timed: whether its binds are samples of the run's timing.
    """

    run: Run
    kernel: str
    spec: NamespaceSpec
    boot: int
    pmem_size: int | None = None
    timed: bool = False

    @property
    def _size(self) -> int:
        return self.run.options.pmem_size if self.pmem_size is None else self.pmem_size

    @property
    def rebinds(self) -> int:
        """How many rebinds were asked for."""
        return self.run.options.rebinds

    def rebind(self, times: int) -> tuple[Bind, ...]:
        """Boot, bind `times` times after the first bind, which is no sample here, and return these binds."""
        run, built = self.run, self.run.kernel(self.kernel)
        if built.modules:
            raise UsageError(
                f"--rig sealed with kernel {built.name}: it needs modules, and its counts there are not those of the "
                "other rig for a reason that nobody knows. Use --rig ssh"
            )
        run.announce(self.spec)
        prepared = self._prepared()
        if built.vmlinux is None:
            raise HostFailure(f"kernel {built.name} has no debug info, by which the probes find the pgmap's fields")
        machine = run.machine(counted=True)
        with (
            run.evidence.folder(self.kernel) as folder,
            run.progress.task(f"{self.kernel} {self.spec.id}: sealed, {times} rebinds"),
        ):
            done = sealed.count(
                built,
                run.image(built),
                machine,
                prepared,
                rebinds=times,
                boot=self.boot,
                pgmap_offsets=pgmap_offsets(open_vmlinux(built.vmlinux)),
                evidence=folder,
                tell=lambda text: run.progress.say(f"  {self.kernel}: {text}"),
            )
        run.note_host(machine, done.guest.cpu_warnings)
        run.record.add(
            GuestEntry(
                kernel=self.kernel,
                boot=self.boot,
                restored=False,
                rig="sealed",
                argv=done.guest.argv,
                # There is none; this is as far as one could have been.
                seconds_to_first_command=round(done.guest.seconds_to_init, 3),
            )
        )
        if self.timed:
            run.record.add(
                NamespaceEntry(
                    id=prepared.id,
                    mode=prepared.mode,
                    map=prepared.map,
                    align_bytes=prepared.align_bytes,
                    size_bytes=prepared.size_bytes,
                ),
                *(bind.entry for bind in done.binds),
            )
        return done.binds

    def _prepared(self) -> Prepared:
        """Return the namespace, made once by ndctl in a guest of the base kernel, and kept in the cache."""

        key = f"{self.spec.id}-{self._size}-{_FORMAT}"
        return Prepared.load(cache.entry("namespaces", key, self._make))

    def _make(self, folder: Path) -> None:
        base = self.run.options.kernel_names()[0]
        with (
            self.run.guest(base, 0) as guest,
            BackingFile.create(guest.workspace.files / "nvdimm0", Nvdimm.backing_bytes(self._size)) as backing,
        ):
            region = plug(guest, Nvdimm("nvdimm0", backing.path, self._size))
            with self.run.progress.task(f"{self.spec.id}: prepared for sealed guests"):
                Prepared.take(create_namespace(guest, region, self.spec)).save(folder)
