"""The disk budget: what the nightly's results and the caches may take together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from vmtests import cache
from vmtests.errors import HostFailure
from vmtests.report import words


def keep_to(budget: int, folders: list[Path], tell: Callable[[str], None]) -> None:
    """Free the oldest nights, then what of the caches was used longest ago, until the budget is kept.

    Args:
        budget: bytes for the nights and the caches together.
        folders: of the nights that may go, the oldest first.
        tell: told what goes.

    Raises:
        HostFailure: what is in use takes more than the budget.
    """
    if _used([cache.root(), *folders]) <= budget:
        return  # without a look at hundreds of thousands of files
    entries = cache.entries()
    cached = sum(entry.size_bytes for entry in entries)
    sizes = [cache.bytes_of(folder) for folder in folders]
    for folder, size in zip(folders, sizes, strict=True):
        if cached + sum(sizes) <= budget:
            return
        tell(f"the disk budget is {words.size_about(budget)}: removing {folder.name}, {words.size_about(size)}")
        shutil.rmtree(folder, ignore_errors=True)
        sizes = sizes[1:]
    for entry in cache.choose(entries, 0.0, None, budget):
        if cache.free(entry):
            tell(f"the disk budget is {words.size_about(budget)}: freed {entry.kind}/{entry.path.name}")
            cached -= entry.size_bytes
    if cached > budget:
        raise HostFailure(
            f"the caches in {cache.root()} take {words.size_about(cached)} that is in use, and the disk budget is "
            f"{words.size_about(budget)}: raise `disk` in nightly.toml, or see `vmtests clean`"
        )


def _used(paths: list[Path]) -> int:
    """Return what all that is on the file systems of these folders takes: they cannot take more."""
    devices = {path.stat().st_dev: path for path in paths}
    return sum(shutil.disk_usage(path).used for path in devices.values())
