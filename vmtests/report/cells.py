"""The timing of a record, arranged for people: one cell for each kind of namespace and clock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vmtests.errors import UsageError
from vmtests.record import BindEntry, ComparisonEntry, KernelEntry, NamespaceEntry, Record, RecordWriter
from vmtests.timing import samples
from vmtests.timing.samples import Metric, Pairs


@dataclass(frozen=True)
class Boot:
    """The binds of one boot of a kernel, in the order they ran."""

    kernel: str
    number: int
    binds: tuple[BindEntry, ...]

    @property
    def first(self) -> BindEntry | None:
        """The bind that making the namespace caused."""
        return next((bind for bind in self.binds if bind.index == 0 and not bind.poisoned), None)

    @property
    def rebinds(self) -> tuple[BindEntry, ...]:
        """Those that are samples."""
        return tuple(bind for bind in self.binds if bind.index and not bind.poisoned)


@dataclass(frozen=True)
class Cell:
    """What was timed of one kind of namespace by one clock. `kernels` has the base first."""

    namespace: NamespaceEntry
    clock: str
    kernels: tuple[str, ...]
    boots: tuple[Boot, ...]
    comparisons: tuple[ComparisonEntry, ...]

    @property
    def unit(self) -> str:
        """What `value` returns."""
        return "instructions/page" if self.clock == "icount" else "ms"

    def emulated(self, record: Record) -> bool:
        """Whether its times are those of a processor that QEMU emulates."""
        return self.clock == "wall" and record.host is not None and record.host.accelerator == "tcg"

    @property
    def pages(self) -> int:
        """How many pages a bind initialised."""
        return next((bind.pages for boot in self.boots for bind in boot.binds), 0)

    def value(self, bind: BindEntry) -> float:
        """Return what one bind took, in the cell's unit."""
        return bind.duration_ns / max(bind.pages, 1) if self.clock == "icount" else bind.duration_ns / 1e6

    def of(self, kernel: str) -> tuple[Boot, ...]:
        """Return the boots of a kernel."""
        return tuple(boot for boot in self.boots if boot.kernel == kernel)

    def middle(self, kernel: str, metric: Metric) -> float | None:
        """Return the median of a kernel's boots in the cell's unit; None when none is whole, or they do not fit."""
        binds = [bind for boot in self.boots for bind in boot.binds]
        try:
            found = samples.per_boot(binds, kernel, self.namespace.id, self.clock, metric)
        except UsageError:
            return None
        return found.middle if found is not None and found.values else None

    def found(self, metric: Metric, patched: str | None = None) -> tuple[ComparisonEntry, ...]:
        """Return the comparisons by one metric, of one kernel or of all."""
        return tuple(one for one in self.comparisons if one.metric == metric and patched in (None, one.patched))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Why kernels could not be compared."""
        found = []
        for patched in self.kernels[1:]:
            try:
                self._pair(patched, "rebind")
            except UsageError as error:
                found.append(str(error))
        return tuple(found)

    def pairs(self, patched: str, metric: Metric) -> dict[int, float]:
        """Return the ratio of each whole pair of boots, by the number of the boot."""
        try:
            found = self._pair(patched, metric)
        except UsageError:
            return {}
        if found is None:
            return {}
        return dict(zip(found.base.values, np.exp(found.differences).tolist(), strict=True))

    def _pair(self, patched: str, metric: Metric) -> Pairs | None:
        binds = [bind for boot in self.boots for bind in boot.binds]
        return samples.pair(binds, self.kernels[0], patched, self.namespace.id, self.clock, metric)


def cells(record: Record | RecordWriter) -> list[Cell]:
    """Return what the record has timed, in the order it ran."""
    binds = record.entries(BindEntry)
    spaces = samples.namespaces(record.entries(NamespaceEntry), binds)
    names = [kernel.name for kernel in record.entries(KernelEntry)]
    found = []
    for namespace, clock in dict.fromkeys((bind.namespace, bind.clock) for bind in binds):
        mine = [bind for bind in binds if (bind.namespace, bind.clock) == (namespace, clock)]
        judged = tuple(
            one for one in record.entries(ComparisonEntry) if (one.namespace, one.clock) == (namespace, clock)
        )
        boots = tuple(
            Boot(kernel, number, tuple(bind for bind in mine if (bind.kernel, bind.boot) == (kernel, number)))
            for kernel, number in dict.fromkeys((bind.kernel, bind.boot) for bind in mine)
        )
        ran = list(dict.fromkeys(boot.kernel for boot in boots))
        base = [judged[0].base] if judged else []
        order = [name for name in dict.fromkeys([*base, *names, *ran]) if name in ran]
        space = spaces.get(namespace) or NamespaceEntry(id=namespace, mode="?", map="?", align_bytes=0, size_bytes=0)
        found.append(Cell(space, clock, tuple(order), boots, judged))
    return found
