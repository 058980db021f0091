"""Sizes in bytes: their names, and the rule "a multiple of so much" with the nearest values that keep it."""

from __future__ import annotations

from vmtests.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_UNITS = ((1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))


def text(size: int) -> str:
    """Return `size` in the largest unit that divides it: "100 GiB", "1537 MiB", "4097 bytes"."""
    for unit, name in _UNITS:
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def check(what: str, size: int, *, multiple: int, least: int | None = None, most: int | None = None) -> None:
    """Refuse a size that is not a multiple of `multiple` between `least` and `most`.

    Args:
        what: what the size belongs to, as the message begins.
        size, multiple, least, most: in bytes; `least` is `multiple` when not given.

    Raises:
        UsageError: with the rule and the nearest valid value.
    """
    least = multiple if least is None else least
    if size % multiple == 0 and size >= least and (most is None or size <= most):
        return
    below = size // multiple * multiple
    nearest = [value for value in (below, below + multiple) if value >= least and (most is None or value <= most)]
    if not nearest:
        nearest = [least if size < least else (most or least) // multiple * multiple]
    rule = f"it must be a multiple of {text(multiple)}, at least {text(least)}"
    if most is not None:
        rule += f" and at most {text(most)}"
    values = " or ".join(f"{text(value)} ({value})" for value in dict.fromkeys(nearest))
    raise UsageError(f"{what} cannot be {text(size)}: {rule}; the nearest is {values}")
