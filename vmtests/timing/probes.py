"""The probes on memmap_init_zone_device(), armed before the namespace is made and taken away afterwards.

Two trace instances see the same probes under two clocks: "mono" (nanoseconds) and "x86-tsc" (raw ticks; under QEMU's
-icount shift=0 one tick is one instruction). The kernel's own pr_debug() line is switched on beside them
(mm/mm_init.c:1117 in 7.3.4).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest
from vmtests.memmap.truth import RangeTruth
from vmtests.timing import trace

FUNCTION = "memmap_init_zone_device"
TRACING = "/sys/kernel/tracing"
INSTANCES = {"vmtests-mono": "mono", "vmtests-tsc": "x86-tsc"}
MONO = f"{TRACING}/instances/vmtests-mono"
TSC = f"{TRACING}/instances/vmtests-tsc"

PGMAP_ALTMAP_VALID = 1 << 0

_PR_DEBUG = re.compile(rf"{FUNCTION} initialised (?P<pages>\d+) pages in (?P<ms>\d+)ms")

#: struct dev_pagemap's fields that the probe reads, and their width in its notation.
_PGMAP_FIELDS = {
    "base_pfn": "u64",
    "reserve": "u64",
    "free": "u64",
    "type": "u32",
    "flags": "u32",
    "vmemmap_shift": "u64",
}

_ARM = """
cd {tracing} || exit 1
printf '%s\\n' {entry} {exit} >> kprobe_events || exit 1
for pair in {instances}; do
    instance=instances/${{pair%:*}}
    mkdir -p $instance && echo ${{pair#*:}} > $instance/trace_clock || exit 1
    echo 1 > $instance/events/kprobes/{ENTRY}/enable && echo 1 > $instance/events/kprobes/{RETURN}/enable || exit 1
done
echo 'func {function} +p' > /proc/dynamic_debug/control
"""

_DISARM = """
cd {tracing} || exit 0
echo 'func {function} -p' > /proc/dynamic_debug/control
for pair in {instances}; do
    instance=instances/${{pair%:*}}
    [ -d $instance ] || continue
    echo 0 > $instance/events/kprobes/enable
    rmdir $instance
done
printf '%s\\n' -:{ENTRY} -:{RETURN} >> kprobe_events
"""


@dataclass(frozen=True)
class Seen:
    """One call as all the witnesses saw it."""

    truth: RangeTruth
    duration_ns: int
    tsc: int
    pages: int
    pr_debug_ms: int | None
    entered_ns: int


@dataclass
class Probes:
    """The armed probes of one guest; `collect` reads what has come since the last time."""

    guest: Guest
    _debug_lines: int = 0
    marks: Mapping[str, int] = field(default_factory=dict)
    #: What a check by these probes cannot tell, for people.
    not_checked: tuple[str, ...] = ()

    def collect(self) -> list[Seen]:
        """Return the calls since the last collection, in order, and empty the trace buffers.

        Raises:
            KernelFailure: the witnesses disagree on how often the function ran or on the pages that it initialised.
        """
        read = f"cat {MONO}/trace; echo; echo =====; cat {TSC}/trace; echo > {MONO}/trace; echo > {TSC}/trace"
        mono_text, _, tsc_text = self.guest.run(read, seconds=60).stdout.partition("=====")
        mono = list(trace.events(mono_text))
        by_time, by_tick = trace.calls(mono), trace.calls(list(trace.events(tsc_text)))
        self.marks = trace.marks(mono)
        return agreed(by_time, by_tick, self._printed())

    def _printed(self) -> list[tuple[int, int]]:
        """Return the pages and the milliseconds of each new line of the function's pr_debug()."""
        printed = debug_lines(self.guest.dmesg())
        printed, self._debug_lines = printed[self._debug_lines :], len(printed)
        return printed


def debug_lines(log: str) -> list[tuple[int, int]]:
    """Return the pages and the milliseconds of each of the function's pr_debug() lines in the kernel's log."""
    return [(int(hit["pages"]), int(hit["ms"])) for hit in _PR_DEBUG.finditer(log)]


def agreed(
    by_time: Sequence[trace.Call], by_tick: Sequence[trace.Call], printed: Sequence[tuple[int, int]]
) -> list[Seen]:
    """Return the calls as two trace clocks and pr_debug() saw them.

    Raises:
        KernelFailure: the witnesses disagree on how often the function ran or on the pages that it initialised.
    """
    if not len(by_time) == len(by_tick) == len(printed):
        raise KernelFailure(
            f"{FUNCTION}() ran {len(by_time)} times by one trace clock, {len(by_tick)} by the other, and its "
            f"pr_debug() printed {len(printed)} lines: the samples cannot be told apart"
        )
    left = list(printed)
    seen = []
    for call, tick in zip(by_time, by_tick, strict=True):
        truth = _truth(call.arguments)
        # Of two binds at once, the first to return need not be the first to have printed.
        fitting = [line for line in left if line[0] == truth.pages]
        if not fitting or tick.arguments != call.arguments:
            raise KernelFailure(
                f"{FUNCTION}() says it initialised {left[0][0]} pages, but its arguments mean {truth.pages} "
                f"(pfn {truth.first_pfn:#x} to {truth.end_pfn:#x}): the altmap or the range was read wrongly by it"
            )
        left.remove(fitting[0])
        pages, milliseconds = fitting[0]
        seen.append(Seen(truth, call.duration, tick.duration, pages, milliseconds, call.entered))
    return seen


def _truth(arguments: Mapping[str, int]) -> RangeTruth:
    # Without PGMAP_ALTMAP_VALID (include/linux/memremap.h) the altmap's fields hold nothing.
    altmap = bool(arguments["flags"] & PGMAP_ALTMAP_VALID)
    return RangeTruth(
        start_pfn=arguments["start"],
        nr_pages=arguments["nr"],
        pgmap=arguments["pgmap"],
        altmap=altmap,
        base_pfn=arguments["base_pfn"] if altmap else 0,
        reserve=arguments["reserve"] if altmap else 0,
        free=arguments["free"] if altmap else 0,
        type=arguments["type"],
        flags=arguments["flags"],
        vmemmap_shift=arguments["vmemmap_shift"],
    )


def definitions(pgmap_offsets: Mapping[str, int]) -> tuple[str, str]:
    """Return the definitions of the kprobe and the kretprobe, in the words of kprobe_events.

    memmap_init_zone_device(zone, start_pfn, nr_pages, pgmap): the x86-64 ABI passes them in di, si, dx, cx.

    Args:
        pgmap_offsets: offset in bytes of each field of struct dev_pagemap, from the kernel's debug info.
    """
    fields = " ".join(f"{name}=+{pgmap_offsets[name]}(%cx):{width}" for name, width in _PGMAP_FIELDS.items())
    return (
        f"p:{trace.ENTRY} {FUNCTION} start=%si:u64 nr=%dx:u64 pgmap=%cx:x64 {fields}",
        f"r:{trace.RETURN} {FUNCTION}",
    )


@contextmanager
def armed(guest: Guest, pgmap_offsets: Mapping[str, int]) -> Iterator[Probes]:
    """Arm the probes in the guest and take them away on leaving.

    Args:
        guest: a running guest; no namespace made yet.
        pgmap_offsets: offset in bytes of each field of struct dev_pagemap, from the kernel's debug info.

    Raises:
        HostFailure: the kernel cannot be probed (it lacks KPROBE_EVENTS, the function, or trace instances).
    """
    entry, leave = definitions(pgmap_offsets)
    words = {
        "entry": shlex.quote(entry),
        "exit": shlex.quote(leave),
        "instances": " ".join(f"{name}:{clock}" for name, clock in INSTANCES.items()),
        "tracing": TRACING,
        "function": FUNCTION,
        "ENTRY": trace.ENTRY,
        "RETURN": trace.RETURN,
    }
    result = guest.run(_ARM.format(**words), seconds=30, check=False)
    if result.status != 0:
        raise HostFailure(
            f"kernel {guest.kernel.name} cannot be probed at {FUNCTION}(): it needs CONFIG_KPROBE_EVENTS, "
            "CONFIG_DYNAMIC_DEBUG and the function as a symbol",
            output=result.stdout + result.stderr,
        )
    try:
        yield Probes(guest)
    finally:
        if guest.alive:
            guest.run(_DISARM.format(**words), seconds=30, check=False)
