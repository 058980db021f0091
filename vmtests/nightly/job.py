"""A night from its beginning, or from where it was cut short, to its end."""

from __future__ import annotations

import os
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

from vmtests import cache
from vmtests.command import run, tied
from vmtests.errors import ExitCode, HostFailure
from vmtests.nightly import config, disk
from vmtests.nightly import night as nights
from vmtests.nightly.night import Night
from vmtests.nightly.outcome import END_SECONDS

#: What only the end of a night needs: scipy is in one, matplotlib in the other.
LATER: tuple[str, ...] = ("vmtests.nightly.closing", "vmtests.report.page")
#: How long avocado may take to end after the deadline of its cells, in seconds.
_GRACE = 3 * END_SECONDS


def run_night(path: Path, folder: Path) -> ExitCode:
    """Run a night, print what is to be mailed, and return the night's exit code.

    Args:
        path: of nightly.toml.
        folder: of the results of all nights; made if need be.

    Raises:
        UsageError: nightly.toml is not valid.
        HostFailure: another night is running, or there is no room.
    """
    wanted = config.read(path)
    folder.mkdir(parents=True, exist_ok=True)
    with cache.locked(folder / ".lock", seconds=0):
        began = time.monotonic()
        night = nights.go_on(folder, wanted)
        if night is not None:
            _say(f"going on with {night.name}: {len(night.unfinished())} of {len(night.cells)} cells are left")
        else:
            _keep_to_budget(wanted.disk, folder)
            night = nights.begin(folder, wanted)
            _say(f"{night.name}: {len(night.cells)} cells, {wanted.seconds / 3600:.1f} h at most")
        if night.unfinished():
            threading.Thread(target=_load, name="load", daemon=True).start()
            _run_cells(night)
        from vmtests.nightly.closing import tell

        return tell(night, folder, began, _say)


def _load() -> None:
    """Load what the end of the night needs, for which no cell has to wait: it takes seconds."""
    for name in LATER:
        import_module(name)


def _keep_to_budget(budget: int, folder: Path) -> None:
    try:
        disk.keep_to(budget, folder, nights.folders(folder), _say)
    except HostFailure as error:
        _say(str(error))  # the cells that this host is to run will find the same, and the mail says it


def _say(text: str) -> None:
    print(f"nightly: {text}", file=sys.stderr, flush=True)


def _run_cells(night: Night) -> None:
    """Run avocado in a process of its own, which ends when we do; nothing depends on how it ends."""
    command = tied("TERM", [sys.executable, "-m", "vmtests.nightly.suite", str(night.folder)])
    try:
        run(
            command,
            seconds=night.seconds_left + _GRACE,
            # Programs of the packages that stand beside avocado, whether its environment is activated or not.
            env={"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])},
            log=night.folder / "avocado.txt",
            line=_say,
            check=False,
        )
    except HostFailure as error:
        _say(str(error))
