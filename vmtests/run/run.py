"""A run: the kernels, the image, the accelerator and the clock it uses, its guests, and its record."""

from __future__ import annotations

import datetime
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from vmtests import cache, errors, host, image, kernel
from vmtests.errors import PRECEDENCE, ExitCode, HostFailure, UsageError, VmtestsError, worst
from vmtests.guest import Guest, Machine, Workspace, boot
from vmtests.host import Accelerator, Host
from vmtests.image import Image
from vmtests.kernel import Kernel, Recipe
from vmtests.memmap import Oracle
from vmtests.pmem import BackingFile, NamespaceSpec
from vmtests.record import BindEntry, GuestEntry, HostEntry, KernelEntry, RecordWriter
from vmtests.report import words
from vmtests.report.progress import Progress
from vmtests.run import patches, unprobed, verdicts
from vmtests.run.bench import Bench
from vmtests.run.dumps import Dumps
from vmtests.run.evidence import Evidence
from vmtests.run.furnish import insert
from vmtests.run.keeping import Keeping
from vmtests.run.options import Options
from vmtests.run.pairs import Pairs
from vmtests.timing import dmesg

#: RAM of a guest; a namespace with map=mem needs more where it is large.
MEMORY_BYTES = 2 << 30


class Run:
    """Everything that the tests of one run share.

    Args:
        options: what was asked for.
        argv: the command line, for the record.
        progress: says what is going on.
    """

    def __init__(self, options: Options, argv: Sequence[str], progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.record = RecordWriter(folder_of(options), argv=argv, seed=options.run_seed())
        self.dumps = Dumps(self.record, enabled=options.dump == "auto")
        self._recipes: dict[str, Recipe] = {}
        self._kernels: dict[str, Kernel] = {}
        self._images: dict[tuple[Path, ...], Image] = {}
        self._unbuildable: dict[str, VmtestsError] = {}
        self.pairs = Pairs(options)
        #: What the gate has made of the run, once it has ended.
        self.gated: list[verdicts.Gated] = []
        #: Why the record could not be written, if it could not.
        self.unsaved = ""
        self._announced = False
        self.evidence = Evidence(self.record)
        self.keeping = Keeping(self.evidence.failures, progress.say)
        Workspace.sweep()
        cache.sweep()

    @cached_property
    def host(self) -> Host:
        """What this machine can run."""
        return host.probe()

    def check_host(self) -> None:
        """Raise a HostFailure, before minutes are spent on kernels, if no guest could run here."""
        self.host.check_room(memory_bytes=2 << 30, disk_bytes=3 << 30)
        if not self.host.sparse:
            raise HostFailure(
                f"{self.host.cache} does not keep files sparse, as an NVDIMM of {words.size(self.options.pmem_size)} "
                "needs it: set XDG_CACHE_HOME to a folder on ext4, xfs, btrfs or tmpfs"
            )

    def image(self, built: Kernel) -> Image:
        """Return the initramfs of a kernel's guests, with its modules if it has any."""
        if built.modules not in self._images:
            with self.progress.task("building the guest image"):
                self._images[built.modules] = image.build(built.modules)
        return self._images[built.modules]

    @cached_property
    def accelerator(self) -> Accelerator:
        """The accelerator, proven by the base kernel unless it was proven before."""
        self.check_host()
        base = self.kernel(self.options.kernel_names()[0])
        with self.progress.task("proving the accelerator"):
            wanted = "tcg" if self.options.counts else self.options.accel
            return host.accelerator(base.image, self.image(base).path, wanted)

    @cached_property
    def clock(self) -> str:
        """ "wall" where time means something, "icount" where only instructions do."""
        if self.options.counts:
            return "icount"
        if self.options.clock != "auto":
            return self.options.clock
        return "wall" if self.accelerator.name == "kvm" else "icount"

    @property
    def clock_used(self) -> str | None:
        """The clock, if anybody has asked for it."""
        return self.__dict__.get("clock")

    def take(self, document: dict[str, Any], clock: str | None, guests: Sequence[str]) -> None:
        """Take over what a worker of this run has recorded, the clock that it used, and the guests that it has left."""
        self.record.merge(document)
        self.keeping.take(guests)
        if clock is not None:
            self.clock = clock

    def add(self, recipe: Recipe) -> None:
        """Let a kernel that no option names be used under its recipe's name."""
        self._recipes[recipe.name] = recipe

    def kernel(self, name: str) -> Kernel:
        """Return a kernel, built at its first use; one that cannot be built is not tried again."""
        if name in self._unbuildable:
            raise self._unbuildable[name]
        if name not in self._kernels:
            try:
                with self.progress.task(f"kernel {name}") as update:
                    built = kernel.build(self._recipes.get(name) or self.options.recipe(name), progress=update)
            except VmtestsError as error:
                if isinstance(error, kernel.BuildFailure):
                    self.record.unbuildable[name] = error.message
                self._unbuildable[name] = patches.fails(self.record, self.options.patch_series, name, error)
                raise self._unbuildable[name] from error
            patches.builds(self.record, self.options.patch_series, name)
            self._kernels[name] = built
            if built.added_options and len(self._kernels) == 1:  # they are the same for each
                self.progress.say(f"  {words.added_options(self.options.config, built.added_options)}")
            self.record.add(
                KernelEntry(
                    name=built.name,
                    release=built.release,
                    config_sha256=built.config_sha256,
                    source=built.source,
                    compiler=built.compiler,
                    patches=tuple({"name": patch.name, "sha256": patch.sha256} for patch in built.patches),
                    build_seconds=built.build_seconds,
                )
            )
            config = self.record.folder / f"{built.name}.config"
            shutil.copyfile(built.config, config)
            self.record.add_evidence("config", config)
        return self._kernels[name]

    def machine(
        self, *, counted: bool = False, memory_bytes: int = MEMORY_BYTES, nodes: int = 1, dimm_bytes: int = 0
    ) -> Machine:
        """Return the guest's machine for this host; `counted`: its clock counts instructions."""
        # Whatever else runs here, instructions are counted by TCG.
        accelerator = "tcg" if counted else self.accelerator.name
        return Machine(
            accelerator=accelerator,
            cpu_model=self.options.cpu_model,
            # With two, QEMU's translator can lose a race against the kernel patching its own code ("Oops: int3").
            cpus=1 if accelerator == "tcg" else 2,
            memory_bytes=memory_bytes,
            icount=counted,
            nodes=nodes,
            dimm_bytes=dimm_bytes,
        )

    def announce(self, spec: NamespaceSpec) -> None:
        """Say, once, what the run runs on."""
        if not self._announced:
            self._announced = True
            self.progress.say(
                f"vmtests: {self.accelerator.name} ({self.accelerator.reason}), {self.options.cpu_model}, "
                f"QEMU {self.host.qemu_version}, kernels {' '.join(self.options.kernel_names())}, "
                f"{words.size(self.options.pmem_size)} {spec.id}, clock {self.clock}, rig {self.options.rig}"
            )

    @contextmanager
    def guest(
        self,
        name: str,
        number: int,
        *,
        append: Sequence[str] = (),
        counted: bool = False,
        timed: bool = False,
        memory_bytes: int = MEMORY_BYTES,
        nodes: int = 1,
        dimm_bytes: int = 0,
        cold: bool = False,
    ) -> Iterator[Guest]:
        """Start a guest; it is gone when the block is left.

        Args:
            name: the kernel's.
            number: which boot of this kernel it is, from 0.
            append: more words for its command line.
            counted: whether its clock counts instructions.
            timed: whether it is a sample of the run's timing: it boots, and by the clock "wall" it runs alone.
            memory_bytes: its RAM.
            nodes: its NUMA nodes, which share the RAM.
            dimm_bytes: a DIMM in front of where NVDIMMs go.
            cold: boot it, whatever snapshot there is.
        """
        built = self.kernel(name)
        machine = self.machine(counted=counted, memory_bytes=memory_bytes, nodes=nodes, dimm_bytes=dimm_bytes)
        with ExitStack() as stack:
            folder = stack.enter_context(self.evidence.folder(name))
            keeper = self.keeping.keeper() if self.options.keep else None
            with self.progress.task(f"{name}: boot"):
                guest = stack.enter_context(
                    boot(
                        built,
                        self.image(built),
                        machine,
                        evidence=folder,
                        log_bytes=self.evidence.log_bytes(),
                        append=append,
                        keeper=keeper,
                        # Two guests that share one boot's layout of memory are no two samples.
                        restore=not (cold or timed or self.options.cold),
                        alone=timed and not counted,
                        tell=lambda text: self.progress.say(f"  {name}: {text}"),
                    )
                )
            self._note_guest(guest, number)
            with self.evidence.kernel_log(guest), self.dumps.watch(guest):
                yield guest
                guest.check_alive()
            self.record.dmesg_warnings += [f"{name}: {line}" for line in dmesg.warnings(guest.dmesg())]

    @contextmanager
    def bench(
        self,
        name: str,
        spec: NamespaceSpec,
        number: int,
        *,
        pmem_size: int | None = None,
        timed: bool = False,
        clock: str | None = None,
        memory_bytes: int = MEMORY_BYTES,
        append: Sequence[str] = (),
        nodes: int = 1,
        dimm_bytes: int = 0,
        backing: BackingFile | None = None,
        cold: bool = False,
    ) -> Iterator[Bench]:
        """Boot a kernel, arm the probes, plug the NVDIMM.

        Args:
            name: the kernel's.
            spec: the kind of namespace that the bench is for.
            number: which boot of this kernel it is, from 0.
            pmem_size: bytes; what the options say by default.
            timed: whether its binds are samples of the run's timing.
            clock: of its binds; by default the run's where they are samples, else "wall".
            memory_bytes: the guest's RAM, where the memmap of map=mem goes.
            append: more words for the kernel's command line.
            nodes: the guest's NUMA nodes; the NVDIMM is on the last one.
            dimm_bytes: a DIMM in front of the NVDIMM.
            backing: the NVDIMM's content, which an earlier guest has left; a new file by default.
            cold: boot it, whatever snapshot there is.
        """
        size = self.options.pmem_size if pmem_size is None else pmem_size
        clock = clock or (self.clock if timed else "wall")
        self.announce(spec)
        with ExitStack() as stack:
            guest = stack.enter_context(
                self.guest(
                    name,
                    number,
                    counted=clock == "icount",
                    timed=timed,
                    memory_bytes=memory_bytes,
                    append=append,
                    nodes=nodes,
                    dimm_bytes=dimm_bytes,
                    cold=cold,
                )
            )
            oracle = stack.enter_context(Oracle.attach(guest))
            probes = stack.enter_context(unprobed.watching(guest, oracle, timed=timed))
            with self.progress.task(f"{name}: hot-plug"):
                region = insert(guest, size, backing=backing, node=nodes - 1 if nodes > 1 else None)
            # Entered last: the dump is written before anything of the guest is taken away.
            stack.enter_context(self.dumps.watch(guest, lambda: oracle.known))
            yield Bench(
                guest=guest,
                region=region,
                spec=spec,
                probes=probes,
                oracle=oracle,
                record=self.record,
                progress=self.progress,
                boot=number,
                clock=clock,
                rebinds=self.options.rebinds,
                timed=timed,
            )

    @contextmanager
    def in_turns(
        self,
        name: str,
        *,
        pmem_size: int | None = None,
        clock: str | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> Iterator[Callable[[NamespaceSpec], AbstractContextManager[Bench]]]:
        """Yield what lends a bench for one kind of namespace after the other, all on one guest; `bench` has the rest.

        The namespace is destroyed when the bench is given back. After a failure the next one gets a new guest.
        """
        boots = itertools.count()
        current: Bench | None = None
        with ExitStack() as stack:

            @contextmanager
            def lend(spec: NamespaceSpec) -> Iterator[Bench]:
                nonlocal current
                try:
                    if current is None:
                        bench = self.bench(
                            name, spec, next(boots), pmem_size=pmem_size, clock=clock, memory_bytes=memory_bytes
                        )
                        current = stack.enter_context(bench)
                    current.spec = spec
                    yield current
                    current.destroy_namespace()
                except BaseException as error:
                    current = None
                    stack.__exit__(type(error), error, error.__traceback__)
                    raise

            yield lend

    def note_host(self, machine: Machine, cpu_warnings: tuple[str, ...]) -> None:
        """Note the host, and what its accelerator lacks of the guests' CPU model."""
        self.record.set_host(
            HostEntry(
                accelerator=self.accelerator.name,
                accelerator_reason=self.accelerator.reason,
                cpu_model=machine.cpu_model,
                missing_cpu_features=cpu_warnings,
                qemu_version=self.host.qemu_version,
                cpus=self.host.cpus,
                memory_bytes=self.host.memory_bytes,
            )
        )

    def _note_guest(self, guest: Guest, number: int) -> None:
        self.note_host(guest.machine, guest.cpu_warnings)
        self.record.add(
            GuestEntry(
                kernel=guest.kernel.name,
                boot=number,
                restored=guest.restored,
                rig="ssh",
                argv=guest.argv,
                seconds_to_first_command=round(guest.seconds_to_first_command, 3),
            )
        )

    def prepare(self) -> None:
        """Build all kernels before the first boot, so that nothing comes between the boots of a pair.

        One that cannot be built fails its own tests.
        """
        for name in self.options.kernel_names():
            with suppress(VmtestsError):
                self.kernel(name)

    def needs(self, boot: int) -> bool:
        """Return whether the pair of boots with this number is to run; ask before each boot."""
        try:
            return self.pairs.needed(boot, self.clock, self.record.entries(BindEntry))
        except VmtestsError as error:
            # The first boot fails by it, in a test of its own.
            self.pairs.ended = error.message
            return boot == 0

    @cached_property
    def verdicts(self) -> tuple[ExitCode, ...]:
        """What the timing adds to the run's exit code, once it is over; without a gate only what a broken rig adds."""
        if not self.record.entries(BindEntry):
            self.gated = verdicts.gate(self.record, self.options)
            return tuple(one.code for one in self.gated)
        failures = verdicts.trouble(self.record)
        try:
            emulated = self.accelerator.name == "tcg"
            verdicts.compare(self.record, self.options, self.clock, emulated=emulated, pairs=self.pairs.begun or None)
        except UsageError as error:
            self.evidence.failed("timing", str(error))
        for failure in failures:
            self.evidence.failed("timing", str(failure))
            self.record.rig_trouble.append(failure.message)
        self.gated = verdicts.gate(self.record, self.options)
        return (*(failure.exit_code for failure in failures), *(one.code for one in self.gated))

    def save(self, code: int) -> int:
        """Write the record, and return the run's exit code: `code`, or what comes of it on a full disk."""
        self.evidence.over()
        if self.pairs.begun:
            self.record.note_pairs(self.pairs.begun, self.pairs.ended)
        try:
            self.record.save(code)
        except OSError as error:
            self.unsaved = f"the record {self.record.folder / 'run.json'} cannot be written: {errors.known(error)}"
            return worst((ExitCode(code), ExitCode.HOST_FAILED)) if code in PRECEDENCE else code
        return code

    def close(self) -> None:
        """Leave nothing behind but the record."""


def folder_of(options: Options) -> Path:
    """Return where the record of a run with these options goes."""
    if options.record is not None:
        return options.record
    now = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{now}-{os.getpid()}"
