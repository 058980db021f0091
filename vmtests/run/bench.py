"""The bench: one guest with an NVDIMM and armed probes, and the steps of the published procedure on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmtests.guest import Guest, kept
from vmtests.memmap import Oracle, Proof
from vmtests.pmem import Namespace, NamespaceSpec, Region, create_namespace, destroy_namespace
from vmtests.record import MemmapEntry, NamespaceEntry, RecordWriter
from vmtests.report.progress import Progress
from vmtests.timing.probes import Probes
from vmtests.timing.rebind import Bind, Rebinder


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

    def create_namespace(self) -> Bind:
        """Make the namespace with ndctl; its driver binds at once, and that first bind is returned.

        One that was made before stays, but from here on all is about the new one.
        """
        with self.progress.task(f"{self.label}: namespace and first bind"):
            self._namespace = create_namespace(self.guest, self.region, self.spec)
            self._rebinder = Rebinder(self.guest, self._namespace, self.probes, self.boot, self.clock)
            first = self._rebinder.first()
            self._saw(first)
        self.record.add(
            NamespaceEntry(
                id=self._namespace.id,
                mode=self._namespace.mode,
                map=self._namespace.map,
                align_bytes=self._namespace.align_bytes,
                size_bytes=self._namespace.size_bytes,
            ),
        )
        self._note(first)
        return first

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

    def rebind_over_poison(self, index: int) -> Bind:
        """Unbind, overwrite the memmap from the host, bind: only what this bind writes can be right afterwards."""
        with self.progress.task(f"{self.label}: rebind over a poisoned memmap"):
            bind = self.rebinder.rebind_over(index, self._poison)
        self._saw(bind)
        self._note(bind)
        return bind

    def _saw(self, bind: Bind) -> None:
        """Let the oracle know of the namespace's last bind, and who comes to the guest later too."""
        self.oracle.saw(self.namespace, bind.truth, poisoned=bind.entry.poisoned)
        self._remember()

    def _remember(self) -> None:
        kept.remember(self.guest.workspace.files, [known.to_json() for known in self.oracle.known])

    def _poison(self) -> None:
        self.oracle.poison(self.namespace)

    def check_memmap(self, bind: Bind) -> None:
        """Look at every struct page of the namespace, and at what lies around the range.

        Raises:
            KernelFailure: a page is wrong, or not all pages could be seen.
        """
        with self.progress.task(f"{self.label}: every struct page after bind {bind.index}"):
            result = self.oracle.check(self.namespace, bind.truth, poisoned=bind.entry.poisoned)
        self.record.add(
            MemmapEntry(
                kernel=self.guest.kernel.name,
                boot=self.boot,
                namespace=self.namespace.id,
                bind_index=bind.index,
                pages_expected=result.pages_expected,
                pages_checked=result.pages_checked,
                bytes_per_page_checked=result.bytes_per_page_checked,
                poisoned=bind.entry.poisoned,
                mismatches=result.mismatches,
                seconds=result.seconds,
                read_limit_seconds=result.read_limit_seconds,
                examples=tuple(example.to_json() for example in result.examples),
            )
        )
        result.verify(f"kernel {self.guest.kernel.name}, {self.namespace.id}, bind {bind.index}")

    def prove_check(self, bind: Bind, flips: int, seed: int) -> Proof:
        """Flip bits all over the memmap, which is right, look whether the check finds each, and flip them back."""
        with self.progress.task(f"{self.label}: {flips} flipped bits"):
            proof = self.oracle.prove(self.namespace, bind.truth, flips=flips, seed=seed)
        self.progress.say(f"  {self.label}: {proof}")
        return proof
