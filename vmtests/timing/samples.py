"""Binds become samples: one number a boot, and pairs of boots to compare.

The boot is the sample and the rebind is not: rebinds of one boot share its memory layout and its host's mood, and
pooling them calls equal kernels different in more than a third of all runs. So each boot gives the median of the
logarithms of its rebinds, and each pair of boots (base and patched, back to back) one difference. A pair of which one
boot died, or has fewer rebinds than the others, is dropped and counted; nothing is ever filled in.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vmtests.errors import UsageError
from vmtests.record import BindEntry, NamespaceEntry
from vmtests.timing.effect import Floats

Metric = Literal["first", "rebind"]
#: x86-64.
PAGE_BYTES = 4096
METRICS: tuple[Metric, ...] = ("first", "rebind")


def namespaces(spaces: Sequence[NamespaceEntry], binds: Sequence[BindEntry]) -> dict[str, NamespaceEntry]:
    """Return the namespaces of the binds by their id.

    Other tests of a run make namespaces of the same kind and other sizes: the one that was bound is the smallest that
    has room for the pages.
    """
    found = {}
    for name in dict.fromkeys(bind.namespace for bind in binds):
        least = max(bind.pages for bind in binds if bind.namespace == name) * PAGE_BYTES
        fits = [space for space in spaces if space.id == name and space.size_bytes >= least]
        if fits:
            found[name] = min(fits, key=lambda space: space.size_bytes)
    return found


@dataclass(frozen=True)
class Boots:
    """One kernel's samples: the logarithm of nanoseconds or instructions for each page, by the boot's number.

    `seen` holds the boots that left any bind at all; those that are not in `values` are not whole.
    """

    kernel: str
    namespace: str
    clock: str
    metric: Metric
    pages: int
    values: dict[int, float]
    seen: frozenset[int]

    @property
    def array(self) -> Floats:
        """The values in the order of the boots."""
        return np.array(list(self.values.values()), dtype=float)

    @property
    def per_page(self) -> dict[int, float]:
        """Nanoseconds or instructions for each page, by the boot's number."""
        return {number: math.exp(value) for number, value in self.values.items()}

    @property
    def unit(self) -> str:
        """The unit that people read."""
        return "instructions/page" if self.clock == "icount" else "ms"

    @property
    def middle(self) -> float:
        """The median of the boots in that unit."""
        return float(np.median(np.exp(self.array))) * (1.0 if self.clock == "icount" else self.pages / 1e6)

    @property
    def disagreement(self) -> float:
        """By how much the boots differ at most, as a fraction."""
        return math.expm1(float(np.ptp(self.array)))


def per_boot(binds: Sequence[BindEntry], kernel: str, namespace: str, clock: str, metric: Metric) -> Boots | None:
    """Reduce a kernel's binds to one number a boot: the median of its rebinds, or its first bind.

    A poisoned bind is never a sample: its memory was written by the host a moment ago. A boot is whole when it has as
    many rebinds as the fullest boot of the run. None when the kernel has no binds in this namespace.

    Raises:
        UsageError: binds by another clock or of another number of pages are among them, or two boots have one number.
    """
    boots = _boots(binds, namespace)
    mine = {number: boot for (name, number), boot in boots.items() if name == kernel}
    if not mine:
        return None
    pages = _pages([bind for boot in mine.values() for bind in boot.values()], clock)
    fullest = max(len(_rebinds(boot)) for boot in boots.values())
    values = {}
    for number, boot in mine.items():
        rebinds = _rebinds(boot)
        chosen = rebinds if metric == "rebind" else [boot[0]] if 0 in boot else []
        if chosen and len(rebinds) == fullest:
            values[number] = statistics.median(math.log(bind.duration_ns / pages) for bind in chosen)
    return Boots(kernel, namespace, clock, metric, pages, values, frozenset(mine))


def whole_pairs(binds: Sequence[BindEntry], kernels: Sequence[str]) -> set[int]:
    """Return the numbers of the pairs in which each of the kernels left binds, as many as the others, everywhere."""
    whole: list[set[int]] = []
    for namespace in dict.fromkeys(bind.namespace for bind in binds):
        boots = _boots(binds, namespace)
        fullest = max((len(_rebinds(boot)) for boot in boots.values()), default=0)
        for kernel in kernels:
            found = {number for (name, number), boot in boots.items() if name == kernel and _rebinds(boot)}
            whole.append({number for number in found if len(_rebinds(boots[kernel, number])) == fullest})
    return set.intersection(*whole) if whole else set()


def _boots(binds: Sequence[BindEntry], namespace: str) -> dict[tuple[str, int], dict[int, BindEntry]]:
    """Return the binds that can be samples by kernel and boot, in order, and then by index."""
    boots: dict[tuple[str, int], dict[int, BindEntry]] = defaultdict(dict)
    for bind in binds:
        if bind.namespace == namespace and not bind.poisoned:
            boot = boots[bind.kernel, bind.boot]
            if bind.index in boot:
                raise UsageError(f"{bind.kernel}, {namespace}, boot {bind.boot}: bind {bind.index} is there twice")
            boot[bind.index] = bind
    return dict(sorted(boots.items()))


def _pages(binds: Sequence[BindEntry], clock: str) -> int:
    """Return the pages that all binds initialised, after a look at whether they are one series."""
    name = f"{binds[0].kernel}, {binds[0].namespace}"
    clocks, pages = {bind.clock for bind in binds}, {bind.pages for bind in binds}
    if clocks != {clock}:
        raise UsageError(f"{name}: binds by the clock {_list(clocks)} where {clock} alone was expected")
    if len(rigs := {bind.rig for bind in binds}) > 1:
        raise UsageError(f"{name}: binds of the rigs {_list(rigs)}, they are not one series")
    if len(pages) > 1:
        raise UsageError(f"{name}: the binds initialised {_list(pages)} pages, they are not one series")
    if not all(bind.duration_ns and bind.pages for bind in binds):
        raise UsageError(f"{name}: a bind of no time or no pages is no sample")
    return binds[0].pages


def _rebinds(boot: dict[int, BindEntry]) -> list[BindEntry]:
    return [bind for index, bind in boot.items() if index > 0]


def _list(values: set[Any]) -> str:
    return " and ".join(str(value) for value in sorted(values))


@dataclass(frozen=True)
class Pairs:
    """Two kernels' boots of the pairs that are whole, and how many pairs were dropped."""

    base: Boots
    patched: Boots
    dropped: int

    @property
    def differences(self) -> Floats:
        """One difference of logarithms a pair."""
        return self.patched.array - self.base.array


def pair(
    binds: Sequence[BindEntry], base: str, patched: str, namespace: str, clock: str, metric: Metric
) -> Pairs | None:
    """Return the pairs of two kernels; None when not one is whole.

    Raises:
        UsageError: as `per_boot` does, and when the kernels initialised different numbers of pages.
    """
    one, other = (per_boot(binds, kernel, namespace, clock, metric) for kernel in (base, patched))
    if one is None or other is None:
        return None
    if one.pages != other.pages:
        raise UsageError(
            f"{namespace}: {base} initialised {one.pages} pages and {patched} {other.pages}, they cannot be compared"
        )
    whole = [number for number in one.values if number in other.values]
    if not whole:
        return None
    one_whole, other_whole = (
        replace(boots, values={number: boots.values[number] for number in whole}) for boots in (one, other)
    )
    return Pairs(one_whole, other_whole, len(one.seen | other.seen) - len(whole))


def family(binds: Sequence[BindEntry], kernels: Sequence[str], clock: str, metric: Metric) -> list[Pairs]:
    """Return the pairs of every kernel with the first, in every namespace: what stands or falls together."""
    base, *others = kernels
    found = [
        pair(binds, base, other, namespace, clock, metric)
        for namespace in dict.fromkeys(bind.namespace for bind in binds)
        for other in others
    ]
    return [one for one in found if one is not None]
