"""Simulated runs: what a host does to the time of a bind, so that the verdict's claims can be put to the test.

The logarithm of the time of one bind is the sum of

- a constant,
- the boot: memory layout and mood of the host, normal, `boot` wide, the same for all binds of the boot,
- a neighbour on the host: one boot in twenty is slower by an exponential amount, `boot` on average,
- drift: `drift` more with every boot of the run, so that what runs later is slower,
- the bind: normal, `bind` wide,
- an outlier: one bind in twenty is slower by an exponential amount of 0.5 on average (65 %), never faster,
- for the first bind 1.7 more (the published first binds take five times as long), and half as wide again.

`effect` is added to the boots of the patched kernel. The order of the boots is the run's own. Thirty rebinds are
reduced to their median here, since arrays are quick, and handed on as one bind each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmtests.record import BindEntry
from vmtests.run import plan
from vmtests.timing.effect import Floats

KERNELS = ("base", "patched")
PAGES = 25804288
_REBINDS = 30


@dataclass(frozen=True)
class Host:
    """How noisy a host is; widths of natural logarithms."""

    name: str
    boot: float
    bind: float
    drift: float

    def __str__(self) -> str:
        return self.name


#: A quiet KVM host; one that drifts; a shared machine under TCG as it was measured; and what lies between them.
HOSTS = (
    Host("quiet", 0.01, 0.03, 0.0),
    Host("drifting", 0.01, 0.03, 0.02),
    Host("between", 0.03, 0.08, 0.005),
    Host("busy", 0.08, 0.23, 0.02),
)


def draw(host: Host, runs: int, pairs: int, rng: np.random.Generator) -> Floats:
    """Return runs x pairs x kernels x binds (the first, then the rebinds), of equal kernels, as logarithms."""
    shape = (runs, 2 * pairs)
    boots = rng.normal(0, host.boot, shape) + host.drift * np.arange(2 * pairs)
    boots += (rng.random(shape) < 0.05) * rng.exponential(host.boot, shape)
    found = rng.normal(0, host.bind, (*shape, _REBINDS + 1))
    found[..., 0] = found[..., 0] * 1.5 + 1.7
    found += (rng.random(found.shape) < 0.05) * rng.exponential(0.5, found.shape) + boots[..., None]
    by_kernel = np.empty((runs, pairs, 2, _REBINDS + 1))
    for run in range(runs):
        for slot, (kernel, boot) in enumerate(plan.order(KERNELS, pairs, seed=run)):
            by_kernel[run, boot, KERNELS.index(kernel)] = found[run, slot]
    return by_kernel


def logarithms(host: Host, runs: int, pairs: int, rng: np.random.Generator) -> Floats:
    """Return runs x pairs x kernels x (first, median of the rebinds), of equal kernels."""
    found = draw(host, runs, pairs, rng)
    return np.stack([found[..., 0], np.median(found[..., 1:], axis=-1)], axis=-1)


def binds(values: Floats, *, namespace: str = "fsdax-dev", effect: float = 0.0) -> list[BindEntry]:
    """Return pairs x kernels x (first, rebind) as the binds of a run whose patch costs `effect`."""
    times = np.exp(values + np.array([0.0, effect])[:, None]) * 273.52e6
    return [
        BindEntry(
            kernel=KERNELS[kernel],
            boot=pair,
            namespace=namespace,
            index=index,
            pages=PAGES,
            pr_debug_ms=None,
            duration_ns=round(times[pair, kernel, index]),
            tsc=None,
            bind_write_ns=None,
            unbind_write_ns=None,
            clock="wall",
            poisoned=False,
        )
        for pair in range(len(values))
        for kernel in range(2)
        for index in range(2)
    ]
