"""The bench: one guest with an NVDIMM and armed probes, and the steps of the published procedure on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmtests.errors import KernelFailure
from vmtests.guest import Guest, kept
from vmtests.memmap import MemmapResult, Oracle, Proof
from vmtests.pmem import (
    Driver,
    Namespace,
    NamespaceSpec,
    Region,
    bind_at_once,
    create_namespace,
    destroy_namespace,
    find_namespace,
)
from vmtests.record import FlipEntry, MemmapEntry, NamespaceEntry, RecordWriter
from vmtests.report.progress import Progress
from vmtests.timing.probes import Probes
from vmtests.timing.rebind import Bind, Rebinder
from vmtests.vmcore import About, Vmcore, write


@dataclass(frozen=True)
class Together:
    """Binds that were begun at once, and whether all of them were in memmap_init_zone_device() at the same time."""

    binds: tuple[Bind, ...]
    overlapped: bool


@dataclass
class Bench:
    """What a test holds. Each step writes what it saw into the run record before it judges it."""

    guest: Guest
    region: Region
    spec: NamespaceSpec
    probes: Probes
    oracle: Oracle
    record: RecordWriter
    progress: Progress
    boot: int
    clock: str
    rebinds: int
    # Whether its binds are samples of the run's timing.
    timed: bool = True
    _namespace: Namespace | None = field(default=None, init=False)
    _rebinder: Rebinder | None = field(default=None, init=False)

    @property
    def label(self) -> str:
        """What it is at work on, for people."""
        return f"{self.guest.kernel.name} {self.spec.id}" + (f" boot {self.boot}" if self.boot else "")

    @property
    def namespace(self) -> Namespace:
        """The namespace, once it is made."""
        assert self._namespace is not None, "make the namespace first"
        return self._namespace

    @property
    def rebinder(self) -> Rebinder:
        """What binds the namespace again, once it is made."""
        assert self._rebinder is not None, "make the namespace first"
        return self._rebinder

    def create_namespace(self, *, over_poison: bool = False) -> Bind:
        """Make the namespace with ndctl; its driver binds at once, and that first bind is returned.

        One that was made before stays, but from here on all is about the new one.

        Args:
            over_poison: overwrite first what its memmap will lie in; for the first namespace of a region.
        """
        if over_poison:
            with self.progress.task(f"{self.label}: poison before the first bind"):
                self.oracle.poison_first(self.region, self.spec)
        with self.progress.task(f"{self.label}: namespace and first bind"):
            self.turn_to(create_namespace(self.guest, self.region, self.spec))
            first = self.rebinder.first(poisoned=over_poison)
        self._note_namespace(first)
        return first

    def find_namespace(self) -> Bind:
        """Return the bind of a namespace that came with the NVDIMM, whose labels an earlier guest has written."""
        with self.progress.task(f"{self.label}: the namespace comes back"):
            self.turn_to(find_namespace(self.guest, self.region, self.spec))
            first = self.rebinder.first()
        self._note_namespace(first)
        return first

    def turn_to(self, namespace: Namespace) -> None:
        """From here on all is about this namespace of the region."""
        self._namespace, self.spec = namespace, namespace.spec
        self._rebinder = Rebinder(self.guest, namespace, self.probes, self.boot, self.clock)

    def _note_namespace(self, first: Bind) -> None:
        self.record.add(
            NamespaceEntry(
                id=self.namespace.id,
                mode=self.namespace.mode,
                map=self.namespace.map,
                align_bytes=self.namespace.align_bytes,
                size_bytes=self.namespace.size_bytes,
            ),
        )
        self._saw(first)
        self._note(first)

    def destroy_namespace(self) -> None:
        """Take the namespace away again, if there is one."""
        if self._namespace is not None:
            with self.progress.task(f"{self.label}: destroy the namespace"):
                destroy_namespace(self.guest, self._namespace)
                self.oracle.forget(self._namespace)
                self._remember()
        self._namespace = self._rebinder = None

    def rebind(self, times: int) -> list[Bind]:
        """Unbind and bind the driver `times` times and return the binds."""
        with self.progress.task(f"{self.label}: {times} rebinds") as update:
            binds = self.rebinder.rebind(1, times, progress=lambda index: update(f"{index}/{times}"))
        self._saw(binds[-1])
        self._note(*binds)
        return binds

    def _note(self, *binds: Bind) -> None:
        if self.timed:
            self.record.add(*(bind.entry for bind in binds))

    def rebind_over_poison(self, index: int, *, unbound: Callable[[], None] = lambda: None) -> Bind:
        """Unbind, overwrite the memmap from the host, bind: only what this bind writes can be right afterwards.

        Args:
            index: the bind's number.
            unbound: called when the memmap is overwritten and the driver not bound yet.
        """

        def prepare() -> None:
            self.oracle.poison(self.namespace)
            unbound()

        with self.progress.task(f"{self.label}: rebind over a poisoned memmap"):
            bind = self.rebinder.rebind_over(index, prepare)
        self._saw(bind)
        self._note(bind)
        return bind

    def _saw(self, bind: Bind) -> None:
        """Let the oracle know of the namespace's last bind, and who comes to the guest later too."""
        self.oracle.saw(self.namespace, bind.truth, poisoned=bind.entry.poisoned)
        self._remember()

    def _remember(self) -> None:
        kept.remember(self.guest.workspace.files, [known.to_json() for known in self.oracle.known])

    def rebind_together(self, namespaces: Sequence[Namespace], index: int) -> Together:
        """Unbind all of them, overwrite their memmaps, and bind each by a task of its own, all at once."""
        with self.progress.task(f"{self.label}: {len(namespaces)} namespaces bound at once"):
            for namespace in namespaces:
                Driver(self.guest, namespace).unbind()
            for namespace in namespaces:
                self.oracle.poison(namespace, alone=False)
            bind_at_once(self.guest, namespaces)
            seen = {self.oracle.owner(one.truth, namespaces).name: one for one in self.probes.collect()}
        if len(seen) != len(namespaces):
            raise KernelFailure(f"{len(namespaces)} binds at once initialised {len(seen)} memmaps")
        ordered = [seen[namespace.name] for namespace in namespaces]
        for namespace, one in zip(namespaces, ordered, strict=True):
            self.oracle.saw(namespace, one.truth, poisoned=True)
        self._remember()
        ends = [one.entered_ns + one.duration_ns for one in ordered]
        return Together(
            binds=tuple(
                Rebinder(self.guest, namespace, self.probes, self.boot, self.clock).bind_of(index, one, poisoned=True)
                for namespace, one in zip(namespaces, ordered, strict=True)
            ),
            overlapped=max(one.entered_ns for one in ordered) < min(ends),
        )

    def check_memmap(self, bind: Bind, *, again: bool = False) -> MemmapResult:
        """Look at every struct page of the namespace, and at what lies around the range.

        Args:
            bind: its last one.
            again: the memmap was looked at before, since that bind.

        Raises:
            KernelFailure: a page is wrong, or not all pages could be seen.
        """
        with self.progress.task(f"{self.label}: every struct page after bind {bind.index}"):
            poisoned = bind.entry.poisoned and not again
            result = self.oracle.check(self.namespace, bind.truth, poisoned=poisoned)
        self.record.add(
            MemmapEntry(
                kernel=self.guest.kernel.name,
                boot=self.boot,
                namespace=self.namespace.id,
                bind_index=bind.index,
                pages_expected=result.pages_expected,
                pages_checked=result.pages_checked,
                bytes_per_page_checked=result.bytes_per_page_checked,
                poisoned=poisoned,
                mismatches=result.mismatches,
                seconds=result.seconds,
                read_limit_seconds=result.read_limit_seconds,
                examples=tuple(example.to_json() for example in result.examples),
                pages_poisoned=result.pages_poisoned,
                not_checked=self.probes.not_checked,
                start_pfn=bind.truth.start_pfn,
                first_pfn=bind.truth.first_pfn,
                end_pfn=bind.truth.end_pfn,
                wrong_fields=tuple(wrong.to_json() for wrong in result.wrong_fields),
            )
        )
        result.verify(f"kernel {self.guest.kernel.name}, {self.namespace.id}, bind {bind.index}")
        return result

    def dump(self, file: Path, reason: str = "asked for by a test") -> Vmcore:
        """Write the dump of the guest as it is now, with all that is known of its memmaps."""
        with self.progress.task(f"{self.label}: dump"):
            return write(file, self.guest.monitor, About.of(self.guest.kernel, self.oracle.known, reason))

    def prove_check(self, bind: Bind, flips: int, seed: int) -> Proof:
        """Flip bits all over the memmap, which is right, look whether the check finds each, and flip them back."""
        with self.progress.task(f"{self.label}: {flips} flipped bits"):
            proof = self.oracle.prove(self.namespace, bind.truth, flips=flips, seed=seed)
        self.progress.say(f"  {self.label}: {proof}")
        self.record.add(
            FlipEntry(
                kernel=self.guest.kernel.name,
                boot=self.boot,
                namespace=self.namespace.id,
                flips=len(proof.flips),
                found=len(proof.flips) - len(proof.missed),
                invented=len(proof.invented) + proof.restored.mismatches,
                pages=sum(len(flip.pfns) for flip in proof.flips),
                seconds=proof.seconds,
            )
        )
        return proof
