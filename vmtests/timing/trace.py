"""What ftrace prints, as values: the probe's entries, its returns, and the marks around the sysfs writes.

A line of a trace file, under the clocks "mono" and "x86-tsc":

    sh-101  [000] .....   12.345678: mi: (memmap_init_zone_device+0x0/0x310) start=0x140000 nr=26214400 ...
    sh-101  [000] ..... 12345678901: mo: (pagemap_range+0x1d5/0x2c0 <- memmap_init_zone_device)
    sh-101  [000] .....   12.345600: tracing_mark_write: bind 1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vmtests.errors import KernelFailure

#: Our kprobe and kretprobe on memmap_init_zone_device().
ENTRY = "vmtests_mi"
RETURN = "vmtests_mo"
MARK = "tracing_mark_write"

_LINE = re.compile(
    r"^\s*\S.*?-(?P<task>\d+)\s+\[\d+\]\s+\S+\s+(?P<time>\d+(?:\.\d+)?): (?P<name>[\w/]+): (?P<text>.*)$"
)
_LOST = re.compile(r"LOST \d+ EVENTS|buffers? .*overrun", re.IGNORECASE)


@dataclass(frozen=True)
class Event:
    """One line. `time` is in nanoseconds under a clock that counts time, in ticks under x86-tsc; `task` is a pid."""

    task: int
    time: int
    name: str
    text: str

    def arguments(self) -> Mapping[str, int]:
        """Return the probe's arguments, `name=value`, as numbers."""
        return {
            name: int(value, 0)
            for name, value in re.findall(r"(\w+)=(0x[0-9a-fA-F]+|-?\d+)", self.text.partition(")")[2])
        }


@dataclass(frozen=True)
class Call:
    """One call of memmap_init_zone_device(), from its entry to its return."""

    entered: int
    returned: int
    arguments: Mapping[str, int]

    @property
    def duration(self) -> int:
        return self.returned - self.entered


def events(trace: str) -> Iterator[Event]:
    """Yield the events of a trace file in order.

    Raises:
        KernelFailure: the ring buffer lost events, so that what is left cannot be trusted.
    """
    for line in trace.splitlines():
        if line.startswith("#"):
            continue
        if _LOST.search(line):
            raise KernelFailure(f"the trace buffer lost events ({line.strip()}): the samples are not complete")
        found = _LINE.match(line)
        if found:
            whole, _, fraction = found["time"].partition(".")
            time = int(whole) * 10**9 + int(fraction.ljust(9, "0")) if fraction else int(whole)
            yield Event(int(found["task"]), time, found["name"], found["text"])


def calls(sequence: Iterator[Event] | list[Event]) -> list[Call]:
    """Pair entries and returns, and return the calls in the order in which they returned.

    The function does not recurse, so that an entry and the next return of one task belong together. Two tasks may bind
    two namespaces at once.
    """
    done: list[Call] = []
    entered: dict[int, Event] = {}
    for event in sequence:
        if event.name == ENTRY:
            if event.task in entered:
                raise KernelFailure(f"memmap_init_zone_device() was entered twice by task {event.task}, without return")
            entered[event.task] = event
        elif event.name == RETURN and event.task in entered:
            entry = entered.pop(event.task)
            done.append(Call(entry.time, event.time, entry.arguments()))
    if entered:
        raise KernelFailure("memmap_init_zone_device() was entered and has not returned")
    return done


def marks(sequence: Iterator[Event] | list[Event]) -> Mapping[str, int]:
    """Return the time of each mark by its text."""
    return {event.text.strip(): event.time for event in sequence if event.name == MARK}
