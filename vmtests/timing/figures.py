"""From a run record to the figures that a history keeps: each with the key of all that makes it comparable."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vmtests.errors import UsageError
from vmtests.record import BindEntry, GuestEntry, HostEntry, KernelEntry, MemmapEntry, NamespaceEntry, Record
from vmtests.timing.samples import METRICS, Metric, namespaces, pair, per_boot


@dataclass(frozen=True)
class Figure:
    """One number of one run. `kernel` says what ran, which may change along a series; `key` may not."""

    key: dict[str, str]
    kernel: str
    value: float

    @property
    def series(self) -> str:
        """The name of the series that the figure belongs to."""
        return hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:8]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"key": self.key, "kernel": self.kernel, "value": self.value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Figure:
        """Return the figure.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        key = {str(name): str(part) for name, part in dict(value["key"]).items()}
        figure = cls(key, str(value["kernel"]), float(value["value"]))
        if not figure.value > 0 or not key.keys() >= {"kernel", "clock", "namespace", "metric"}:
            raise ValueError(f"{value} is no figure")
        return figure


def figures(record: Record, reference: str | None = None) -> tuple[list[Figure], list[str]]:
    """Return the figures of a run, and what was left out and why.

    Args:
        record: of the run.
        reference: the kernel that times are divided by; the base if None.

    Raises:
        UsageError: there are no samples, clocks are mixed, or the reference did not run.
    """
    binds = record.entries(BindEntry)
    host = record.host
    if not binds or host is None:
        raise UsageError(f"{record.folder} holds no timing samples: add the record of a run that bound a namespace")
    clock = binds[0].clock
    kernels = {kernel.name: kernel for kernel in record.entries(KernelEntry)}
    base = reference or next(iter(kernels), "")
    if base not in kernels:
        raise UsageError(f"{record.folder} has no kernel {base}: it has {' '.join(kernels)}")
    found, notes = [], []
    wrong = {check.kernel for check in record.entries(MemmapEntry) if check.mismatches}
    notes += [f"{name}: its memmap was wrong, so its times mean nothing" for name in kernels if name in wrong]
    for name, kernel in kernels.items():
        if name in wrong or (clock == "wall" and (name == base or base in wrong)):
            continue
        for space in namespaces(record.entries(NamespaceEntry), binds).values():
            for metric in METRICS:
                if metric == "first" and not any(bind.index == 0 for bind in binds):
                    continue  # the sealed rig has none
                measured = _measure(binds, kernel.name, base, space.id, clock, metric)
                if measured is None:
                    notes.append(f"{name}, {space.id}, {metric}: no whole boot")
                    continue
                value, pages = measured
                key = _key(record, host, kernel, space, pages) | {"clock": clock, "metric": metric}
                if clock == "wall":
                    key |= {"reference": base, "reference_kernel": _identity(kernels[base])}
                found.append(Figure(key, describe(kernel), value))
    return found, notes


def samples(record: Record) -> dict[str, dict[str, dict[str, list[int]]]]:
    """Return all that was measured, for ever: durations by namespace, kernel and boot, the first bind first."""
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for bind in sorted(record.entries(BindEntry), key=lambda bind: bind.index):
        if not bind.poisoned:
            boots = found.setdefault(bind.namespace, {}).setdefault(bind.kernel, {})
            boots.setdefault(str(bind.boot), []).append(bind.duration_ns)
    return found


def _measure(
    binds: tuple[BindEntry, ...], kernel: str, base: str, namespace: str, clock: str, metric: Metric
) -> tuple[float, int] | None:
    """Return instructions a page, or the ratio to the reference, and the pages."""
    if clock == "icount":
        boots = per_boot(binds, kernel, namespace, clock, metric)
        return (math.exp(float(boots.array.mean())), boots.pages) if boots is not None and boots.values else None
    pairs = pair(binds, base, kernel, namespace, clock, metric)
    return (math.exp(float(pairs.differences.mean())), pairs.base.pages) if pairs is not None else None


def _key(record: Record, host: HostEntry, kernel: KernelEntry, space: NamespaceEntry, pages: int) -> dict[str, str]:
    guests = [guest for guest in record.entries(GuestEntry) if guest.kernel == kernel.name]
    return {
        "kernel": kernel.name,
        "config": kernel.config_sha256,
        "compiler": kernel.compiler,
        "accelerator": host.accelerator,
        "cpu_model": host.cpu_model,
        "qemu": host.qemu_version,
        "machine": " ".join(sorted({_machine(guest.argv) for guest in guests})),
        "rig": " ".join(sorted({bind.rig for bind in record.entries(BindEntry) if bind.kernel == kernel.name})),
        "namespace": space.id,
        "size_bytes": str(space.size_bytes),
        "pages": str(pages),
    }


def _machine(argv: tuple[str, ...]) -> str:
    """Return the memory and the processors of QEMU's command line."""
    return " ".join(f"{option} {value}" for option, value in pairwise(argv) if option in ("-m", "-smp"))


def _identity(kernel: KernelEntry) -> str:
    return f"{describe(kernel)}, {kernel.config_sha256}, {kernel.compiler}"


def describe(kernel: KernelEntry) -> str:
    """Return what ran, in a line: name, release, source and the patches by a digest of them all."""
    text = f"{kernel.name} {kernel.release}, {kernel.source}"
    if kernel.patches:
        digest = hashlib.sha256("".join(patch["sha256"] for patch in kernel.patches).encode()).hexdigest()
        text += f", {len(kernel.patches)} patches {digest[:8]}"
    return text
