"""How figures are written: thousands apart, signs on changes, no more digits than mean something."""

from __future__ import annotations

from vmtests.record import ComparisonEntry

#: Under icount a count is never called time.
COUNT_WORDS = {"faster": "fewer", "slower": "more", "same": "same", "no-verdict": "no verdict"}
TIME_WORDS = {"faster": "faster", "slower": "slower", "same": "same", "no-verdict": "no verdict"}

CLOCKS = {
    "icount": "instructions counted by QEMU (icount); blind to caches, stores that bypass them, first-touch faults",
    "wall": "time by the guest's monotonic clock (wall)",
}


def verdict(comparison: ComparisonEntry) -> str:
    """Return the verdict's word for the clock it was reached by."""
    words = COUNT_WORDS if comparison.clock == "icount" else TIME_WORDS
    return words[comparison.verdict]


def value(number: float, unit: str) -> str:
    """Return a figure with its unit: 55.28 instructions/page, 273.5 ms."""
    return f"{number:.2f} {unit}" if number < 100 else f"{number:.1f} {unit}"


def change(ratio: float) -> str:
    """Return a ratio as a signed percentage."""
    return f"{(ratio - 1) * 100:+.2f} %"


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
