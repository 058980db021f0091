"""Two run records held against each other, offline: of other days, of other machines.

Boots of two records were not run back to back, so what the host did between them is not told from what the kernel did;
Welch's interval says how far the boots scatter, and no more. What does travel is the change that a patch makes: base
and patched ran side by side in each record, so the two changes are compared as well, and that says whether a result
was reproduced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vmtests.errors import UsageError
from vmtests.record import BindEntry, ComparisonEntry, HostEntry, KernelEntry, NamespaceEntry, Record
from vmtests.timing import effect, rig, verdict
from vmtests.timing.samples import METRICS, Boots, Metric, namespaces, pair, per_boot


@dataclass(frozen=True)
class Reproduction:
    """The change that a patch makes, as two records measured it, and the second change over the first.

    `verdict` is "same" when the second record reproduces the first.
    """

    first: ComparisonEntry
    second: ComparisonEntry
    ratio: float
    ci_low: float | None
    ci_high: float | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "first": self.first.to_json(), "second": self.second.to_json()}


@dataclass(frozen=True)
class Comparison:
    """What two records say of each other. In `entries`, `base` is the first record's kernel, `patched` the second's."""

    warnings: tuple[str, ...]
    entries: tuple[ComparisonEntry, ...]
    reproductions: tuple[Reproduction, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "warnings": list(self.warnings),
            "entries": [one.to_json() for one in self.entries],
            "reproductions": [one.to_json() for one in self.reproductions],
        }


@dataclass(frozen=True)
class _Side:
    """What one record has to compare."""

    name: str
    binds: tuple[BindEntry, ...]
    clock: str
    host: HostEntry
    rigs: str
    kernels: dict[str, KernelEntry]
    namespaces: dict[str, NamespaceEntry]

    @property
    def emulated(self) -> bool:
        return self.clock == "wall" and self.host.accelerator == "tcg"

    @classmethod
    def of(cls, record: Record) -> _Side:
        name, host = str(record.folder), record.host
        binds = tuple(bind for bind in record.entries(BindEntry) if not bind.poisoned)
        if not binds or host is None:
            raise UsageError(f"{name} holds no timing samples: name the record of a run that bound a namespace")
        clocks = sorted({bind.clock for bind in binds})
        if len(clocks) > 1:
            raise UsageError(f"{name} mixes the clocks {' and '.join(clocks)}: its samples are not of one kind")
        ran = {bind.kernel for bind in binds}
        return cls(
            name=name,
            binds=binds,
            clock=clocks[0],
            host=host,
            rigs=" ".join(sorted({bind.rig for bind in binds})),
            kernels={kernel.name: kernel for kernel in record.entries(KernelEntry) if kernel.name in ran},
            namespaces=namespaces(record.entries(NamespaceEntry), binds),
        )

    def boots(self, kernel: str, namespace: str, metric: Metric) -> Boots | None:
        return per_boot(self.binds, kernel, namespace, self.clock, metric)

    def pages(self, namespace: str) -> str:
        return " ".join(
            str(count) for count in sorted({bind.pages for bind in self.binds if bind.namespace == namespace})
        )

    def shape(self, namespace: str) -> str:
        space = self.namespaces[namespace]
        return f"{space.mode} map={space.map} align={space.align_bytes} size={space.size_bytes}"


def compare(first: Record, second: Record) -> Comparison:
    """Compare two records: kernels of one name with each other, or the only ones that the records have.

    Raises:
        UsageError: clock, namespace or pages differ, counts are of different versions of QEMU, a record has no samples,
            or no kernel can be matched with another.
    """
    one, two = _Side.of(first), _Side.of(second)
    _refuse(one, two)
    kernels = _match(one, two)
    entries = [entry for metric in METRICS for entry in _across(one, two, kernels, metric)]
    if not entries:
        raise UsageError(f"{one.name} and {two.name}: no kernel has a whole boot in both")
    reproductions = [found for metric in METRICS for found in _reproduced(one, two, metric)]
    return Comparison(tuple(_warnings(one, two, kernels)), tuple(entries), tuple(reproductions))


def _refuse(one: _Side, two: _Side) -> None:
    def same(what: str, here: str, there: str, why: str) -> None:
        if here != there:
            raise UsageError(f"{what} differ: {here} in {one.name}, {there} in {two.name}; {why}")

    same("the clocks", one.clock, two.clock, "time and instructions cannot be compared")
    if one.clock == "icount":
        why = "each one counts in its own way: run both with one"
        same("the versions of QEMU", one.host.qemu_version, two.host.qemu_version, why)
    common = _common(one, two)
    if not common:
        here, there = (" ".join(side.namespaces) for side in (one, two))
        same("the namespaces", here, there, "run one with the other's --mode, --map and --align")
    for name in common:
        same(f"the namespaces {name}", one.shape(name), two.shape(name), "give both runs the same options")
        same(f"the pages of {name}", one.pages(name), two.pages(name), "the kernels did not do the same work")


def _common(one: _Side, two: _Side) -> list[str]:
    return [name for name in one.namespaces if name in two.namespaces]


def _match(one: _Side, two: _Side) -> list[tuple[str, str]]:
    common = [(name, name) for name in one.kernels if name in two.kernels]
    if common:
        return common
    if len(one.kernels) == len(two.kernels) == 1:
        return [(next(iter(one.kernels)), next(iter(two.kernels)))]
    here, there = (" ".join(side.kernels) for side in (one, two))
    raise UsageError(f"no kernel is in both records: {one.name} has {here}, {two.name} has {there}")


def _warnings(one: _Side, two: _Side, kernels: Sequence[tuple[str, str]]) -> Iterator[str]:
    facts = [
        ("the accelerators", one.host.accelerator, two.host.accelerator),
        ("the CPU models", one.host.cpu_model, two.host.cpu_model),
        ("the rigs", one.rigs, two.rigs),
        *(
            (f"the compilers of {here}", one.kernels[here].compiler, two.kernels[there].compiler)
            for here, there in kernels
        ),
    ]
    for what, here, there in facts:
        if here != there:
            yield f"{what} differ: {here} in {one.name}, {there} in {two.name}"
    if left_out := sorted(one.namespaces.keys() ^ two.namespaces.keys()):
        yield f"only one of the records has {' '.join(left_out)}: left out"
    if one.clock == "wall":
        yield "boots of two records are no pairs: what the host did in between looks like a change of the kernel"


def _across(one: _Side, two: _Side, kernels: Sequence[tuple[str, str]], metric: Metric) -> list[ComparisonEntry]:
    """Compare the kernels of two records by their boots."""
    found = []
    for namespace in _common(one, two):
        for here, there in kernels:
            boots = one.boots(here, namespace, metric), two.boots(there, namespace, metric)
            if boots[0] is not None and boots[1] is not None and boots[0].values and boots[1].values:
                found.append((boots[0], boots[1]))
    distrusted = {(bad.kernel, bad.namespace) for side in (one, two) for bad in rig.check(side.binds)}
    if one.clock == "icount":
        judged: list[effect.Judgement | None] = [None] * len(found)
    else:
        judged = [*effect.judge([effect.unpaired(base.array, patched.array) for base, patched in found])]
    return [
        verdict.entry(
            base,
            patched,
            judgement,
            trusted=distrusted.isdisjoint((boots.kernel, boots.namespace) for boots in (base, patched)),
            pairs=min(len(base.values), len(patched.values)),
            emulated=one.emulated or two.emulated,
        )
        for (base, patched), judgement in zip(found, judged, strict=True)
    ]


def _reproduced(one: _Side, two: _Side, metric: Metric) -> list[Reproduction]:
    """Compare the changes of the kernels that both records held against the same base."""
    base, other_base = next(iter(one.kernels)), next(iter(two.kernels))
    others = [name for name in one.kernels if name in two.kernels and name != base]
    if base != other_base:
        return []
    found, effects = [], []
    for namespace in _common(one, two):
        for other in others:
            pairs = [pair(side.binds, base, other, namespace, side.clock, metric) for side in (one, two)]
            if pairs[0] is not None and pairs[1] is not None:
                found.append((namespace, other))
                effects.append(effect.unpaired(pairs[0].differences, pairs[1].differences))
    stated = [
        {
            (entry.namespace, entry.patched): entry
            for entry in verdict.compare_all(side.binds, (base, *others), side.clock, metrics=(metric,))
        }
        for side in (one, two)
    ]
    return [
        _reproduction(stated[0][key], stated[1][key], judgement)
        for key, judgement in zip(found, effect.judge(effects), strict=True)
    ]


def _reproduction(first: ComparisonEntry, second: ComparisonEntry, judged: effect.Judgement) -> Reproduction:
    if first.clock == "wall":
        return Reproduction(first, second, judged.ratio, judged.low, judged.high, judged.word)
    unclear = "no-verdict" in (first.verdict, second.verdict)
    word = "no-verdict" if unclear else verdict.count_word(judged.ratio)
    return Reproduction(first, second, judged.ratio, None, None, word)
