"""The figures of a run as names and values, for JUnit: its `<property>` elements are what other tools read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

from vmtests.record import BindEntry, ComparisonEntry, Entry, MemmapEntry, RecordWriter
from vmtests.report import words

Property = tuple[str, str | int | float]


class Properties:
    """The properties of a record that is being written."""

    def __init__(self, record: RecordWriter) -> None:
        self._record = record
        self._binds = self._checks = 0

    def added(self) -> list[Property]:
        """Return the figures of the binds and memmap checks that were added since the last call."""
        binds, checks = self._record.entries(BindEntry), self._record.entries(MemmapEntry)
        found: list[Entry] = [*binds[self._binds :], *checks[self._checks :]]
        self._binds, self._checks = len(binds), len(checks)
        return list(of_entries(found))

    def verdicts(self) -> list[Property]:
        """Return the figures of the comparisons."""
        return list(of_comparisons(self._record.entries(ComparisonEntry)))


def of_entries(entries: Iterable[Entry]) -> Iterator[Property]:
    """Yield the figures of what one test has added to the record: its binds and its memmap checks."""
    kept = list(entries)
    yield from _binds([entry for entry in kept if isinstance(entry, BindEntry)])
    for check in kept:
        if isinstance(check, MemmapEntry):
            name = f"{check.kernel}.{check.namespace}.boot{check.boot}.bind{check.bind_index}.memmap"
            for figure in ("pages_expected", "pages_checked", "mismatches", "poisoned", "seconds"):
                yield f"{name}.{figure}", getattr(check, figure)


def _binds(binds: list[BindEntry]) -> Iterator[Property]:
    samples = [bind for bind in binds if not bind.poisoned and bind.pages]
    for kernel, space, boot, clock in dict.fromkeys((b.kernel, b.namespace, b.boot, b.clock) for b in samples):
        mine = [b for b in samples if (b.kernel, b.namespace, b.boot, b.clock) == (kernel, space, boot, clock)]
        name, unit = f"{kernel}.{space}.boot{boot}", "instructions_per_page" if clock == "icount" else "ms"
        yield f"{name}.clock", clock
        yield f"{name}.pages", mine[0].pages
        if firsts := [_figure(bind) for bind in mine if bind.index == 0]:
            yield f"{name}.first.{unit}", firsts[0]
        if rebinds := [_figure(bind) for bind in mine if bind.index]:
            yield f"{name}.rebinds.count", len(rebinds)
            yield f"{name}.rebinds.median.{unit}", median(rebinds)


def _figure(bind: BindEntry) -> float:
    return bind.duration_ns / bind.pages if bind.clock == "icount" else bind.duration_ns / 1e6


def of_comparisons(comparisons: Iterable[ComparisonEntry]) -> Iterator[Property]:
    """Yield the figures of the verdicts, which belong to the whole run; what is not known is left out."""
    for one in comparisons:
        name = f"{one.patched}-against-{one.base}.{one.namespace}.{one.metric}"
        figures = ("clock", "unit", "base_value", "patched_value", "ratio", "ci_low", "ci_high", "confidence")
        for figure in (*figures, "pairs", "dropped_pairs", "noise_floor", "smallest_visible"):
            value = getattr(one, figure)
            if value is not None:
                yield f"{name}.{figure}", value
        # A count is not called faster, not even to a program.
        yield f"{name}.verdict", words.verdict(one)
