"""The disk budget: what the nightly's results and the caches of a host may take together.

It is looked at as a night begins, and before each cell on the host that runs it: kernels that the cells before it have
built count. A host that has no results, as another one has not, looks at its caches.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from vmtests import cache
from vmtests.errors import HostFailure
from vmtests.report import words


def keep_to(budget: int, results: Path, older: Sequence[Path], tell: Callable[[str], None]) -> None:
    """Free the oldest nights, then what of the caches was used longest ago, until the budget is kept.

    Args:
        budget: bytes for the results and the caches together.
        results: the folder of all nights, the history with them.
        older: the nights in it that may go, the oldest first.
        tell: told what goes.

    Raises:
        HostFailure: what must not go takes more than the budget.
    """
    places = [path for path in (cache.root(), results) if path.is_dir()]
    if _used(places) <= budget:
        return  # without a look at hundreds of thousands of files

    def say(what: str) -> None:
        tell(f"the disk budget is {words.size_about(budget)}: {what}")

    # By turns: what a folder shares with another by hard links is free when both have gone.
    while (taken := sum(map(cache.bytes_of, places))) > budget:
        if not _free(taken - budget, older, say):
            raise HostFailure(
                f"{' and '.join(map(str, places))} take {words.size_about(taken)} when all that is not in use has "
                f"gone, and the disk budget is {words.size_about(budget)}: raise `disk` in nightly.toml, or see "
                "`vmtests clean`"
            )


def _free(size: int, older: Sequence[Path], say: Callable[[str], None]) -> bool:
    """Free about so many bytes, and return whether anything has gone."""
    gone = [f"{rest.parent.name}/{rest.name}" for rest in cache.sweep()]
    for folder in older:
        if size > 0 and folder.is_dir():
            size -= cache.bytes_of(folder)
            shutil.rmtree(folder, ignore_errors=True)
            gone += [] if folder.exists() else [folder.name]
    if size > 0:
        entries = cache.entries()
        left = sum(entry.size_bytes for entry in entries) - size
        chosen = cache.choose(entries, 0.0, None, left)
        gone += [f"{entry.kind}/{entry.path.name}" for entry in chosen if cache.free(entry)]
    for what in gone:
        say(f"removed {what}")
    return bool(gone)


def _used(places: Sequence[Path]) -> int:
    """Return what all that is on the file systems of these folders takes: they cannot take more."""
    devices = {path.stat().st_dev: path for path in places}
    return sum(shutil.disk_usage(path).used for path in devices.values())
