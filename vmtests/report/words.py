"""How figures are written: thousands apart, signs on changes, no more digits than mean something."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vmtests.record import ComparisonEntry

#: Under icount a count is never called time.
COUNT_WORDS = {"faster": "fewer", "slower": "more", "same": "same", "no-verdict": "no verdict"}
TIME_WORDS = {"faster": "faster", "slower": "slower", "same": "same", "no-verdict": "no verdict"}

#: Where a figure could be and is not.
NOTHING = "\N{EN DASH}"

CLOCKS = {
    "icount": "instructions counted by QEMU (icount); blind to caches, stores that bypass them, first-touch faults",
    "wall": "time by the guest's monotonic clock (wall)",
}
#: Added for the wall clock under TCG.
EMULATED = "; the processor is emulated (TCG): not comparable with hardware"
#: So many pairs of boots leave no spread to judge by, or a spread that is known too badly.
FEW_PAIRS = 2


def verdict(comparison: ComparisonEntry) -> str:
    """Return the verdict's word for the clock it was reached by."""
    words = COUNT_WORDS if comparison.clock == "icount" else TIME_WORDS
    return words[comparison.verdict]


def clock(name: str, *, emulated: bool = False) -> str:
    """Return what the clock is, in a line; `emulated`: time was measured on a processor that QEMU emulates."""
    return CLOCKS[name] + (EMULATED if emulated else "")


def interval(comparison: ComparisonEntry) -> str:
    """Return the interval of the change and how sure it is; nothing where there is none."""
    low, high, confidence = comparison.ci_low, comparison.ci_high, comparison.confidence
    if low is None or high is None:
        return ""
    ends = f"{change(low)} to " + (change(high) if high <= 100 else "more than a hundredfold")
    return ends if confidence is None else f"{confidence * 100:.4g} %: {ends}"


def smallest_visible(comparison: ComparisonEntry) -> str:
    """Return the smallest change that this run could have seen."""
    if comparison.smallest_visible is not None:
        percent = comparison.smallest_visible * 100
        return f"{f'{percent:.2g}' if percent < 10 else f'{percent:.0f}'} %"
    if comparison.pairs <= FEW_PAIRS:
        return "too few pairs to see anything"
    return "not even a hundredfold change"


def pairs(comparison: ComparisonEntry) -> str:
    """Return how many pairs of boots the comparison has, and how many were dropped."""
    dropped = comparison.dropped_pairs
    return str(comparison.pairs) + (f", {dropped} dropped" if dropped else "")


def typeset(text: str) -> str:
    """Return text with a minus sign, as wide as the plus sign, where a hyphen stands before a number; % stays by it."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text).replace(" %", "\N{NO-BREAK SPACE}%")


def count(number: int, noun: str) -> str:
    """Return how many there are: 1 pair, 20 pairs."""
    head, space, tail = noun.partition(" ")
    return f"{number:,} {head}{'' if number == 1 else 's'}{space}{tail}"


def sees(comparison: ComparisonEntry) -> str:
    """Return what the run could have seen, as a clause."""
    seen = smallest_visible(comparison)
    return f"sees changes from {seen}" if comparison.smallest_visible is not None else seen


def printable(text: str) -> str:
    """Return text with everything that could move a cursor, hide or turn round what is shown as an escape.

    Strings of a record may come from a guest. Ends of line and no-break spaces stay.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\N{NO-BREAK SPACE}" else ascii(letter)[1:-1] for letter in text
    )


def value(number: float, unit: str) -> str:
    """Return a figure with its unit: 55.28 instructions/page, 273.5 ms."""
    return f"{number:.2f} {unit}" if number < 100 else f"{number:.1f} {unit}"


def added_options(config: object, options: Sequence[str]) -> str:
    """Return what was added to a user's config, an option a line."""
    head = f"{config} lacks {count(len(options), 'option')} that the tests need; added:"
    return "\n".join([head, *(f"    {option}" for option in options)])


def change(ratio: float) -> str:
    """Return a ratio as a signed percentage."""
    # Nothing is no loss: without the sum, -0.001 % would be written -0.00 %.
    return f"{round((ratio - 1) * 100, 2) + 0.0:+.2f} %"


def size(count: int) -> str:
    """Return bytes in the largest binary unit that divides them."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >> shift and not count % (1 << shift):
            return f"{count >> shift} {unit}"
    return f"{count} B"


def size_about(count: int) -> str:
    """Return bytes with at most one decimal: 1.3 GiB."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >> shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} B"


def age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit: 3 h."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def memmap(what: str, checked: int, expected: int, wrong: int, seconds: float) -> str:
    """Return the outcome of one check in a line."""
    return f"{what}: {checked:,} of {expected:,} struct pages checked in {seconds:.2f} s, {wrong:,} wrong"
