"""The oracle: what a run asks about the memmaps of one guest, and what it has to remember between two questions."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmtests.errors import KernelFailure
from vmtests.memmap.access import Access, attach
from vmtests.memmap.check import check
from vmtests.memmap.difference import Digest, digest
from vmtests.memmap.expected import Segment, expected
from vmtests.memmap.flip import Proof, prove
from vmtests.memmap.freemem import poison_free
from vmtests.memmap.guard import Neighbours, neighbours
from vmtests.memmap.known import Known
from vmtests.memmap.layout import PAGE_SHIFT, PageLayout, Role
from vmtests.memmap.pgmap import truths
from vmtests.memmap.poison import Poison, altmap_area, poison
from vmtests.memmap.result import EXAMPLES, MemmapResult
from vmtests.memmap.truth import RangeTruth

if TYPE_CHECKING:
    from vmtests.guest import Guest
    from vmtests.pmem import Namespace, NamespaceSpec, Region

# The node of the device, and how many nodes have come up; -1 where the kernel has no NUMA.
_NODE = """
read -r node < /sys/bus/nd/devices/{device}/numa_node 2>/dev/null || node=-1
set -- /sys/devices/system/node/node[0-9]*
[ -e "$1" ] || set -- one
echo $node $#
"""


#: In place of a namespace's name: the first one of a region, before it is made.
_FIRST = "first"


@dataclass
class Oracle:
    """Attached to one guest. Checks and poisons its memmaps, in the order that the binds happen."""

    guest: Guest
    access: Access
    _truths: dict[str, RangeTruth] = field(default_factory=dict)
    _poisons: dict[str, Poison] = field(default_factory=dict)
    _neighbours: dict[str, Neighbours] = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)
    _known: dict[str, Known] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def attach(cls, guest: Guest) -> Iterator[Oracle]:
        """Attach to the guest's second monitor for as long as the context lasts.

        Raises:
            HostFailure: the debug info is missing or of another build; the struct page of this kernel is not known.
        """
        with attach(guest) as access:
            yield cls(guest, access)

    @property
    def pgmap_offsets(self) -> Mapping[str, int]:
        """Where struct dev_pagemap has the fields that a probe reads, in bytes."""
        return self.access.layout.pgmap_offsets

    def ranges(self) -> tuple[RangeTruth, ...]:
        """Return the range of every pgmap that the kernel has now, for binds that no probe has seen."""
        return truths(self.access.program)

    @property
    def known(self) -> tuple[Known, ...]:
        """What is known of the memmaps that there are now: enough to check them in a dump of the guest."""
        return tuple(self._known.values())

    def saw(self, namespace: Namespace, truth: RangeTruth, *, poisoned: bool = False) -> None:
        """Remember what the probe saw of the namespace's bind, which is just over; `poisoned`: it was over poison.

        Raises:
            KernelFailure: the function was not called for what its pgmap says, or that is not the namespace's.
        """
        if (now := self.access.pgmap_of(truth.start_pfn)) != truth:
            raise KernelFailure(
                f"memmap_init_zone_device() was called for {truth}, but after the bind of {namespace.name} pfn "
                f"{truth.start_pfn:#x} is of {now or 'no pgmap'}"
            )
        _is_of_kind(truth, namespace, self.access.layout)
        self._truths[namespace.name] = truth
        applied = self._poisons.get(namespace.name) or self._poisons.get(_FIRST)
        self._known[namespace.name] = Known(
            namespace.id, namespace.device, truth, self.node(namespace), applied if poisoned else None
        )

    def forget(self, namespace: Namespace) -> None:
        """Forget a namespace that is there no more."""
        for kept in (self._truths, self._poisons, self._neighbours, self._known):
            kept.pop(namespace.name, None)

    def check(
        self, namespace: Namespace, truth: RangeTruth, *, poisoned: bool = False, limit: int = EXAMPLES
    ) -> MemmapResult:
        """Compare the namespace's memmap with what it must hold.

        Args:
            namespace: bound, and not in use.
            truth: what the probe saw of its last bind.
            poisoned: that bind was done over the poison of `poison`.
            limit: how many examples to keep.
        """
        key = namespace.name
        _belongs(truth, namespace)
        applied = self._poisons.pop(key, None) or self._poisons.pop(_FIRST, None)
        was = self._neighbours.pop(key, None)
        if poisoned and applied is None:
            raise RuntimeError(f"{key} was bound over poison, but nothing was poisoned")
        return check(
            self.access,
            truth,
            node=self.node(namespace),
            poison=applied if poisoned else None,
            before=was,
            limit=limit,
        )

    def poison(self, namespace: Namespace, *, alone: bool = True) -> Poison:
        """Overwrite the memory that the namespace's next memmap will lie in; call while its driver is not bound.

        For map=dev that is in the namespace; for map=mem in the guest's free memory, where it has been written before.

        Args:
            namespace: whose driver will be bound next.
            alone: nothing else will be bound or unbound beside it until the check, so that the struct pages around its
                range must stay as they are.
        """
        key = namespace.name
        last = self._truths.get(key)
        if last is not None and alone:
            self._neighbours[key] = neighbours(self.access, last.start_pfn, last.end_pfn)
        end = namespace.start + namespace.size_bytes
        self._poisons[key] = self._overwrite(namespace.map, namespace.start, end, limit=namespace.data_start)
        return self._poisons[key]

    def poison_first(self, region: Region, spec: NamespaceSpec) -> Poison:
        """Overwrite the memory that the memmap of a region's first namespace will lie in, before it is made.

        For map=mem that is all of the guest's free memory, for which the host needs room.
        """
        end = region.start + (spec.size_bytes or region.size_bytes)
        self._poisons[_FIRST] = self._overwrite(spec.map, region.start, end, everywhere=True)
        return self._poisons[_FIRST]

    def _overwrite(
        self, where: str, start: int, end: int, *, limit: int | None = None, everywhere: bool = False
    ) -> Poison:
        """Overwrite what a memmap for `start` to `end` will lie in, up to the data of the namespace at `limit`."""
        with self.access.memory(writable=True) as memory:
            parts = []
            if where == "dev":
                first, stop = altmap_area(start, end, self.access.layout)
                parts.append(poison(memory, first, stop if limit is None else min(stop, limit)))
            # The memmap of a section that the namespace has only a part of lies in RAM (arch/x86/mm/init_64.c:1533).
            if where == "mem" or start % self.access.section_bytes or end % self.access.section_bytes:
                parts.append(poison_free(self.access, memory, everywhere=everywhere))
        return functools.reduce(Poison.and_also, parts)

    def prove(self, namespace: Namespace, truth: RangeTruth, *, flips: int, seed: int) -> Proof:
        """Show that `check` finds any wrong bit: flip so many in the memmap, which is right, and flip them back.

        Args:
            namespace: bound, and not in use.
            truth: what the probe saw of its last bind.
            flips: how many bits.
            seed: what the choice of them comes from.
        """
        _belongs(truth, namespace)
        return prove(self.access, truth, node=self.node(namespace), count=flips, seed=seed)

    def segments(self, namespace: Namespace, truth: RangeTruth) -> tuple[Segment, ...]:
        """Return what memmap_init_zone_device() initialises: single pages or folios, and how many pages of each."""
        access = self.access
        facts = access.facts(access.sections(truth.start_pfn, truth.end_pfn), self.node(namespace))
        return expected(truth, access.layout, facts).pages

    def head(self, pfn: int) -> int:
        """Return the first page of the folio that a page is in, as compound_head() has it (page-flags.h:226-247)."""
        access, layout = self.access, self.access.layout
        info = layout.field(Role.TAIL, "compound_info")
        assert info is not None, "every layout has it"
        page = access.vmemmap + pfn * layout.size
        value = int(access.program.read_u64(page + info.offset))
        if not value & 1:
            return pfn
        head = page & value if layout.compound_mask else value - 1
        return (head - access.vmemmap) // layout.size

    @staticmethod
    def owner(truth: RangeTruth, namespaces: Sequence[Namespace]) -> Namespace:
        """Return the one of the namespaces whose bind the probe saw; a KernelFailure if it is none of them."""
        for namespace in namespaces:
            if namespace.start <= truth.start_pfn << PAGE_SHIFT < namespace.start + namespace.size_bytes:
                return namespace
        raise KernelFailure(
            f"memmap_init_zone_device() was called for pfn {truth.start_pfn:#x}, which is in none of ours"
        )

    def digest(self, namespace: Namespace, truth: RangeTruth) -> Digest:
        """Return the memmap with its pointers replaced by what they point at, to be compared with another kernel's."""
        _belongs(truth, namespace)
        return digest(self.access, truth)

    def node(self, namespace: Namespace) -> int:
        """Return the NUMA node of the device, which the struct pages must have.

        Raises:
            KernelFailure: it has none although the guest has several.
        """
        if namespace.device not in self._nodes:
            node, online = map(int, self.guest.run(_NODE.format(device=namespace.device)).stdout.split())
            if node < 0 and online != 1:
                raise KernelFailure(
                    f"{namespace.device} has no node although the guest has {online}: the node of its memmap then is "
                    "that of the CPU that bound it (mm/memremap.c:185 in 7.3.4)"
                )
            self._nodes[namespace.device] = max(node, 0)
        return self._nodes[namespace.device]


def _is_of_kind(truth: RangeTruth, namespace: Namespace, layout: PageLayout) -> None:
    """See that the pages are of the type and the order that this kind of namespace has.

    drivers/nvdimm/pmem.c:531 and drivers/dax/device.c:431-433 in 7.3.4. What a struct page must hold depends on both: a
    wrong one would be taken for right.
    """
    wanted = ("FS_DAX", 0)
    if namespace.mode == "devdax":
        wanted = ("GENERIC", namespace.align_bytes.bit_length() - 1 - PAGE_SHIFT)
    got = (layout.memory_type(truth.type), truth.vmemmap_shift)
    if got != wanted:
        raise KernelFailure(
            f"the pgmap of {namespace.name}, {namespace.id}, has pages of type {got[0]} and order {got[1]}, must be "
            f"{wanted[0]} and {wanted[1]}"
        )


def _belongs(truth: RangeTruth, namespace: Namespace) -> None:
    """See that the probe saw this namespace and not another one.

    Raises:
        KernelFailure: the range is not inside the namespace, or its data begin elsewhere than sysfs says.
    """
    first, end = namespace.start >> PAGE_SHIFT, (namespace.start + namespace.size_bytes) >> PAGE_SHIFT
    if not first <= truth.start_pfn < truth.end_pfn <= end:
        raise KernelFailure(
            f"{namespace.name} is pfn {first:#x} to {end:#x}, but memmap_init_zone_device() was called for "
            f"{truth.start_pfn:#x} to {truth.end_pfn:#x}"
        )
    if truth.altmap != (namespace.map == "dev"):
        raise KernelFailure(f"{namespace.name} has map={namespace.map}, but its pgmap's altmap says {truth.altmap}")
    if truth.altmap:
        truth.confirm(resource=namespace.data_start)
