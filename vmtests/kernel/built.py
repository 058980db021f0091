"""The kernels that were built before, by what is left of them in the cache."""

from __future__ import annotations

from pathlib import Path

from vmtests import cache


def vmlinuxes() -> tuple[Path, ...]:
    """Return the vmlinux, with debug info, of every kernel in the cache."""
    return tuple(sorted((cache.root() / "kernels").glob("[!.]*/vmlinux")))
