"""Whether the rig that counts instructions can be trusted: two boots of one kernel must count alike.

A kernel counts the same work by the same number, so boots of one kernel that differ by more than their rig allows say
that the rig is broken, and nothing about any kernel. `ssh`: the namespace is hot-plugged and the loop is started over
SSH, whose packets and timers fall into the loop; medians agree. `sealed`: nothing reaches the guest; every bind is the
same to the digit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from vmtests.record import BindEntry
from vmtests.timing.samples import per_boot

#: By how much the medians of two boots of one kernel may differ, as a fraction.
TOLERANCES = {"ssh": 50e-6, "sealed": 0.0}


@dataclass(frozen=True)
class Broken:
    """Two boots of one kernel that do not agree; `text` says by how much."""

    kernel: str
    namespace: str
    text: str

    def __str__(self) -> str:
        return self.text


def check(binds: Sequence[BindEntry]) -> tuple[Broken, ...]:
    """Return the kernels and namespaces whose boots differ by more than the rig allows, each once.

    Binds that were timed or poisoned are no concern of this check.

    Raises:
        UsageError: the binds of one kernel are no series.
    """
    counted = [bind for bind in binds if bind.clock == "icount" and not bind.poisoned]
    series = dict.fromkeys((bind.kernel, bind.namespace) for bind in counted)
    found = (next(_disagreements(counted, *one), None) for one in series)
    return tuple(one for one in found if one is not None)


def _disagreements(binds: Sequence[BindEntry], kernel: str, namespace: str) -> Iterator[Broken]:
    chosen = [bind for bind in binds if (bind.kernel, bind.namespace) == (kernel, namespace)]
    rig = chosen[0].rig
    by_what: dict[str, dict[int, int]]
    if TOLERANCES[rig]:
        boots = per_boot(chosen, kernel, namespace, "icount", "rebind")
        medians = {} if boots is None else boots.per_page
        by_what = {"the median rebind": {boot: round(count * chosen[0].pages) for boot, count in medians.items()}}
    else:
        by_what = {f"bind {index}": counts for index, counts in _by_index(chosen).items()}
    for what, counts in by_what.items():
        for (one, count), (two, other) in combinations(counts.items(), 2):
            if abs(other - count) > TOLERANCES[rig] * count:
                yield _broken(kernel, namespace, rig, what, (one, two), (count, other))


def _by_index(binds: Sequence[BindEntry]) -> dict[int, dict[int, int]]:
    """Return the counts by the bind's index and then by boot."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    for bind in binds:
        found[bind.index][bind.boot] = bind.duration_ns
    return found


def _broken(
    kernel: str, namespace: str, rig: str, what: str, boots: tuple[int, int], counts: tuple[int, int]
) -> Broken:
    apart = abs(counts[1] / counts[0] - 1) * 1e6
    allowed = f"{TOLERANCES[rig] * 1e6:g} parts per million" if TOLERANCES[rig] else "nothing"
    return Broken(
        kernel,
        namespace,
        f"the rig is broken: kernel {kernel}, {namespace}, {what} took {counts[0]:,} instructions in boot {boots[0]} "
        f"and {counts[1]:,} in boot {boots[1]}, {apart:.3g} parts per million apart, where the rig {rig} allows "
        f"{allowed}. No count of this kernel means anything; run it again"
        + ("" if rig == "sealed" else ", alone on this host or with --rig sealed"),
    )
