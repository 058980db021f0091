"""The tracepoint page_ref_set, counted in the guest: which struct pages had their reference count set, and to what.

The slow path emits an event for each (mm/mm_init.c:600, 1016 and 1069 in 7.3.4), and a fast path must not hide them. A
histogram counts them by value for the pages of one range, and loses none; the ring buffer is left out. `strays` are
events of struct pages that are neither the range's nor RAM's: of one made up on the stack, for example, whose pfn is
none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Guest
from vmtests.memmap.expected import Segment
from vmtests.memmap.truth import RangeTruth
from vmtests.timing.probes import TRACING

EVENT = "events/page_ref/page_ref_set"
INSIDE, OUTSIDE = (f"{TRACING}/instances/vmtests-{name}" for name in ("inside", "outside"))

_ROW = re.compile(r"^\{ val:\s*(-?\d+) \} hitcount:\s*(\d+)", re.MULTILINE)
_TOTAL = re.compile(r"^\s*(Hits|Dropped): (\d+)", re.MULTILINE)
_STATS = re.compile(r"^(?:entries|overrun|dropped events): (\d+)", re.MULTILINE)

# The last page of RAM, as pfn; NVDIMMs lie above it.
_RAM_END = "sed -n 's/^[0-9a-f]*-\\([0-9a-f]*\\) : System RAM$/\\1/p' /proc/iomem | tail -n 1"

_ARM = """
mkdir -p {inside} {outside} || exit 1
echo '{ours}' > {inside}/{event}/filter && echo '{others}' > {outside}/{event}/filter || exit 1
"""
_COUNT = """
echo 'hist:keys=val if {ours}' > {inside}/{event}/trigger &&
echo 'hist:keys=val if {others}' > {outside}/{event}/trigger
"""
_DISARM = """
rm -f {toggling}
for instance in {inside} {outside}; do
    [ -d $instance ] || continue
    echo 0 > $instance/{event}/enable
    grep -q '^hist:' $instance/{event}/trigger && echo '!hist:keys=val' > $instance/{event}/trigger
    rmdir $instance
done
"""

# While the file is there. What is outside goes on first and off last, or it would miss what the other side lets happen.
_TOGGLING = "/tmp/vmtests-toggling"
_TOGGLE = """
: > {toggling}
( while [ -e {toggling} ]; do
    echo 1 > {outside}/{event}/enable; echo 1 > {inside}/{event}/enable
    echo 0 > {inside}/{event}/enable; echo 0 > {outside}/{event}/enable
done; : > {toggling}.done ) > /dev/null 2>&1 < /dev/null &
"""
_STOP = """
rm -f {toggling}; until [ -e {toggling}.done ]; do usleep 10000; done; rm -f {toggling}.done
for instance in {inside} {outside}; do cat $instance/per_cpu/cpu*/stats; echo =====; done
"""


@dataclass(frozen=True)
class Seen:
    """Events counted: by the value that was set, for the range's pages; and those of pages that do not exist."""

    by_value: Mapping[int, int]
    strays: int


def slow_path(truth: RangeTruth, segments: Sequence[Segment], *, referenced: bool) -> dict[int, int]:
    """Return the events that the slow path emits for a range, by value.

    Every page is set to 1 first (init_page_count()), then those that begin without reference to 0: pages of their own
    and heads unless they are `referenced` (MEMORY_DEVICE_GENERIC), and all tails.

    Args:
        truth: of the range.
        segments: its pages as expected() has them: of a folio only those with memory of their own are initialised.
        referenced: pages of their own and heads keep the reference.
    """
    stored = sum(one.units * one.stored for one in segments)
    heads = sum(one.units for one in segments)
    zeroed = 0 if referenced else heads
    if truth.vmemmap_shift:
        zeroed += stored - heads
    return {value: count for value, count in ((0, zeroed), (1, stored)) if count}


@dataclass
class References:
    """The armed event of one guest; switched on by `count` or by `toggle`."""

    guest: Guest
    words: Mapping[str, object] = field(repr=False)

    def count(self) -> None:
        """Count every event from now on."""
        self._run(_COUNT)

    def counted(self) -> Seen:
        """Return what has been counted.

        Raises:
            KernelFailure: the histogram has lost events, so that nothing can be said.
        """
        text = self._run("cat {inside}/{event}/hist; echo =====; cat {outside}/{event}/hist")
        inside, _, outside = text.partition("=====")
        for part in (inside, outside):
            totals = {name: int(value) for name, value in _TOTAL.findall(part)}
            rows = sum(int(hits) for _, hits in _ROW.findall(part))
            if totals.get("Dropped") != 0 or totals.get("Hits") != rows:
                raise KernelFailure("the histogram of page_ref_set has lost events: it proves nothing", output=part)
        by_value = {int(value): int(hits) for value, hits in _ROW.findall(inside)}
        return Seen(by_value, sum(int(hits) for _, hits in _ROW.findall(outside)))

    def toggle(self) -> None:
        """Switch the event on and off, over and over, by a process of its own, until `toggled`."""
        self._run(_TOGGLE)

    def toggled(self) -> tuple[int, int]:
        """Stop that; return how many events there were of the range's pages, and of pages that do not exist."""
        inside, outside, _ = self._run(_STOP).split("=====")
        first, second = (sum(map(int, _STATS.findall(part))) for part in (inside, outside))
        return first, second

    def _run(self, script: str) -> str:
        return self.guest.run(script.format(**self.words), seconds=60).stdout


@contextmanager
def armed(guest: Guest, truth: RangeTruth) -> Iterator[References]:
    """Prepare to count the event for a range that will be bound again, and take everything away on leaving.

    Raises:
        HostFailure: the kernel has no such event, or no triggers on events.
    """
    last = int(guest.run(_RAM_END).stdout, 16) >> 12
    first, end = truth.first_pfn, truth.end_pfn
    words = {
        "inside": INSIDE,
        "outside": OUTSIDE,
        "event": EVENT,
        "ours": f"pfn >= {first:#x} && pfn < {end:#x}",
        # Before the first page of the range are those that hold its memmap.
        "others": f"pfn > {last:#x} && (pfn < {truth.start_pfn:#x} || pfn >= {end:#x})",
        "toggling": _TOGGLING,
    }
    result = guest.run(_ARM.format(**words), check=False)
    if result.status != 0:
        raise HostFailure(
            "the guest's kernel cannot count the event page_ref_set: it needs CONFIG_DEBUG_PAGE_REF and "
            "CONFIG_HIST_TRIGGERS",
            output=result.stdout + result.stderr,
        )
    try:
        yield References(guest, words)
    finally:
        if guest.alive:
            guest.run(_DISARM.format(**words), check=False)


def compare(wanted: Mapping[int, int], seen: Seen, what: str) -> None:
    """Raise a KernelFailure about `what` unless exactly these events were seen, and no strays."""
    if seen.strays:
        raise KernelFailure(f"{what}: {seen.strays} events of page_ref_set are of struct pages that are no pages")
    if seen.by_value == wanted:
        return
    lines = [
        f"set to {value}: {seen.by_value.get(value, 0)} events, must be {wanted.get(value, 0)}"
        for value in sorted(Counter(wanted) | Counter(seen.by_value))
    ]
    raise KernelFailure(f"{what}: the events of page_ref_set are not those of the slow path", output="\n".join(lines))
