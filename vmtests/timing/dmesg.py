"""The kernel's own warnings during a run."""

from __future__ import annotations

import re

_WARNING = re.compile(r"\bWARNING:|\bBUG:|\bINFO: (task .* blocked|rcu)|possible (circular|recursive) locking|\bUBSAN:")


#: Where in a line it must be. The kernel's lines are no longer, and those of a hostile guest take long to search.
_CHARACTERS = 1024


def warnings(text: str) -> list[str]:
    """Return the lines of dmesg in which the kernel complains of itself."""
    return [line.strip() for line in text.splitlines() if _WARNING.search(line, 0, _CHARACTERS)]
