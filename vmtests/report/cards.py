"""What a page says first: four cards, each one figure, what it means, and a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vmtests.record import ComparisonEntry, DifferenceEntry, FlipEntry, MemmapEntry, Record
from vmtests.report import words
from vmtests.report.cells import Cell, cells
from vmtests.report.completeness import completeness

Tone = Literal["good", "bad", "unsure", "none"]

_TONES: dict[str, Tone] = {"faster": "good", "same": "good", "slower": "bad", "no-verdict": "unsure"}
#: The worst first: what a card over several comparisons says.
_ORDER = ("slower", "no-verdict", "same", "faster")


@dataclass(frozen=True)
class Card:
    """`word` says in words what `tone` says in colour and shape."""

    heading: str
    figure: str
    lines: tuple[str, ...]
    word: str
    tone: Tone


def cards(records: Sequence[Record]) -> list[Card]:
    """Return the cards of a page: instructions, time, memmap, completeness."""
    return [_timing(records, "icount"), _timing(records, "wall"), _memmap(records), _complete(records)]


def _timing(records: Sequence[Record], clock: str) -> Card:
    heading = "Instructions per page" if clock == "icount" else "Time per bind"
    for record in records:
        found = [cell for cell in cells(record) if cell.clock == clock]
        judged = [one for cell in found for one in cell.found("rebind")]
        notes = (_TCG,) if any(cell.emulated(record) for cell in found) else ()
        if found and clock == "icount" and record.rig_trouble:
            return Card(heading, words.NOTHING, tuple(record.rig_trouble), "The rig is broken", "bad")
        if len(judged) == 1:
            return _one(heading, judged[0], notes)
        if judged:
            return _several(heading, judged, notes)
        if found:
            return _alone(heading, found[0], notes)
    if clock == "icount":
        not_counted = "not counted in this run: --clock icount counts them, under TCG"
        return Card(heading, words.NOTHING, (not_counted,), "Not counted", "none")
    not_measured = "not measured in this run: time under emulation says nothing about hardware"
    return Card(heading, words.NOTHING, (not_measured,), "Not measured", "none")


_TCG = "under emulation (TCG): not comparable with hardware"


def _one(heading: str, one: ComparisonEntry, notes: tuple[str, ...]) -> Card:
    pairs = words.count(one.pairs, "pair of boots")
    values = " → ".join(f"{value:.2f}" for value in (one.base_value, one.patched_value))
    lines = [f"{one.base} → {one.patched}: {values} {one.unit}, rebinds of {one.namespace}"]
    if one.clock == "icount":
        lines.append("counted by QEMU (icount); up to 0.1 % is the same")
    elif one.ci_low is not None and one.ci_high is not None:
        lines.append(f"interval {words.interval(one)}, {pairs}")
    else:
        lines.append(f"no interval from {pairs}")
    lines.append(words.sees(one))
    word = words.verdict(one).capitalize()
    return Card(heading, words.change(one.ratio), (*lines, *notes), word, _TONES[one.verdict])


def _several(heading: str, judged: Sequence[ComparisonEntry], notes: tuple[str, ...]) -> Card:
    counted = Counter(one.verdict for one in judged)
    worst, *_ = kinds = [verdict for verdict in _ORDER if counted[verdict]]
    said = {one.verdict: words.verdict(one) for one in judged}
    low, high = (choose(judged, key=lambda one: one.ratio) for choose in (min, max))
    lines = (
        f"{words.count(len(judged), 'comparison')} of rebinds",
        f"least: {low.patched}, {low.namespace}; most: {high.patched}, {high.namespace}",
    )
    figure = f"{words.change(low.ratio)} to {words.change(high.ratio)}"
    word = ", ".join(f"{counted[verdict]} {said[verdict]}" for verdict in kinds)
    return Card(heading, figure, (*lines, *notes), word, _TONES[worst])


def _alone(heading: str, cell: Cell, notes: tuple[str, ...]) -> Card:
    kernel = cell.kernels[0]
    middle = cell.middle(kernel, "rebind")
    figure = words.NOTHING if middle is None else words.value(middle, cell.unit)
    lines = (f"rebinds of {kernel}, {cell.namespace.id}", "nothing to compare it with")
    return Card(heading, figure, (*lines, *notes), "No comparison", "none")


def _memmap(records: Sequence[Record]) -> Card:
    heading = "Memmap"
    checks = [check for record in records for check in record.entries(MemmapEntry)]
    differences = [two for record in records for two in record.entries(DifferenceEntry)]
    if not checks:
        return Card(heading, words.NOTHING, ("no struct page was looked at",), "Not checked", "none")
    seen, expected = (sum(getattr(check, name) for check in checks) for name in ("pages_checked", "pages_expected"))
    poisoned = sum(check.poisoned for check in checks)
    lines = [
        f"{seen:,} of {expected:,} struct pages checked in {words.count(len(checks), 'check')}, {poisoned} over poison",
    ]
    wrong = sum(check.mismatches for check in checks)
    bad = sum(bool(check.mismatches) for check in checks)
    flips = [flip for record in records for flip in record.entries(FlipEntry)]
    if flips:
        lines.append(f"{sum(one.found for one in flips):,} of {sum(one.flips for one in flips):,} flipped bits found")
    lines += dict.fromkeys(f"not checked: {thing}" for check in checks for thing in check.not_checked)
    if bad:
        lines.append(f"wrong in {words.count(bad, 'check')}")
    if differences:
        apart = sum(two.mismatches for two in differences)
        compared = words.count(len(differences), "comparison")
        lines.append(f"kernels against each other: {apart:,} pages differ in {compared}")
        wrong += apart
    figure = f"{wrong:,} wrong"
    if wrong:
        return Card(heading, figure, tuple(lines), "Wrong", "bad")
    if seen != expected:
        return Card(heading, figure, tuple(lines), "Not all seen", "unsure")
    return Card(heading, figure, tuple(lines), "Right", "good")


def _complete(records: Sequence[Record]) -> Card:
    found = [completeness(record) for record in records]
    binds, wanted, boots, warnings = (
        sum(getattr(one, name) for one in found) for name in ("binds", "binds_expected", "boots", "warnings")
    )
    lines = [f"binds measured, in {words.count(boots, 'boot')}"]
    figure = f"{binds:,} / {wanted:,}"
    if not wanted:
        checks, blind = (sum(getattr(one, name) for one in found) for name in ("checks", "checks_incomplete"))
        figure = f"{checks - blind:,} / {checks:,}"
        lines = [f"memmap checks saw all, in {words.count(boots, 'boot')}; no bind was timed"]
    lines.append(f"{words.count(warnings, 'warning')} of the kernels" if warnings else "no warning of the kernels")
    lines += [lack for one in found for lack in one.lacks]
    if not all(one.complete for one in found):
        return Card("Completeness", figure, tuple(lines), "Incomplete", "bad")
    if warnings:
        return Card("Completeness", figure, tuple(lines), "Complete, with warnings", "unsure")
    return Card("Completeness", figure, tuple(lines), "Complete", "good")
