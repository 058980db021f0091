"""Watching binds on a kernel without kprobes: by what it prints and by what its debug info finds afterwards.

Enough to check a memmap, not to time anything. What is not seen this way stands in the record and in the summary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest
from vmtests.memmap import Oracle
from vmtests.timing import trace
from vmtests.timing.probes import FUNCTION, MONO, TRACING, Probes, Seen, armed

#: What a probe would have told.
NOT_CHECKED = (
    f"the arguments of {FUNCTION}(): the range is the one that its pgmap has after the bind",
    "that the pgmap was the same during the bind",
)

_LISTEN = f"""
mkdir -p {MONO} && echo mono > {MONO}/trace_clock && echo 'func {FUNCTION} +p' > /proc/dynamic_debug/control
"""
_LEAVE = f"""
echo 'func {FUNCTION} -p' > /proc/dynamic_debug/control; rmdir {MONO}
"""


def can_be_probed(guest: Guest) -> bool:
    """Tell whether the kernel has events on kprobes."""
    return guest.run(["test", "-e", f"{TRACING}/kprobe_events"], check=False).status == 0


def watching(guest: Guest, oracle: Oracle, *, timed: bool = False) -> AbstractContextManager[Probes]:
    """Return what arms the probes, or listens where there are none; binds that are timed need probes in any case."""
    if timed or can_be_probed(guest):
        return armed(guest, oracle.pgmap_offsets)
    return listening(guest, oracle)


@dataclass
class Unprobed(Probes):
    """Stands in for probes: the function's own pr_debug() says that it ran and for how many pages."""

    oracle: Oracle = field(kw_only=True)

    def collect(self) -> list[Seen]:
        """Return the calls since the last collection, as far as they are known; times are in whole milliseconds.

        Raises:
            KernelFailure: no pgmap has the number of pages that the function says it initialised.
            HostFailure: several have it.
        """
        text = self.guest.run(f"cat {MONO}/trace; echo > {MONO}/trace").stdout
        self.marks = trace.marks(trace.events(text))
        ranges = self.oracle.ranges()
        seen = []
        for pages, milliseconds in self._printed():
            fitting = [one for one in ranges if one.pages == pages]
            if not fitting:
                sizes = ", ".join(str(one.pages) for one in ranges) or "none"
                raise KernelFailure(f"{FUNCTION}() says it initialised {pages} pages, but the pgmaps are of {sizes}")
            if len(fitting) > 1:
                raise HostFailure(
                    f"{FUNCTION}() initialised {pages} pages, which {len(fitting)} pgmaps have: without kprobes they "
                    "cannot be told apart. Give the namespaces different sizes"
                )
            seen.append(Seen(fitting[0], milliseconds * 10**6, 0, pages, milliseconds, 0))
        return seen


@contextmanager
def listening(guest: Guest, oracle: Oracle) -> Iterator[Unprobed]:
    """Switch on what the kernel prints, in place of probes, and switch it off on leaving.

    Raises:
        HostFailure: the kernel has no dynamic debug or no trace instances either.
    """
    result = guest.run(_LISTEN, check=False)
    if result.status != 0:
        raise HostFailure(
            f"kernel {guest.kernel.name} has no kprobes, and cannot tell of its binds otherwise: it needs "
            "CONFIG_KPROBE_EVENTS, or CONFIG_DYNAMIC_DEBUG and CONFIG_FTRACE",
            output=result.stdout + result.stderr,
        )
    try:
        yield Unprobed(guest, not_checked=NOT_CHECKED, oracle=oracle)
    finally:
        if guest.alive:
            guest.run(_LEAVE, check=False)
