"""The avocado job of a night, in a process of its own: `python -m vmtests.nightly.suite NIGHT`.

Two suites of one job, so that all attempts stand in one results.json: the cells that are to be run, and again those
that this host, not their kernel, has failed. What avocado makes of them does not decide; see gate.py.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from avocado.core.job import Job
from avocado.core.nrunner.runnable import Runnable
from avocado.core.suite import TestSuite

from vmtests.errors import ExitCode
from vmtests.nightly import night as nights
from vmtests.nightly import spawner
from vmtests.nightly.matrix import Cell
from vmtests.nightly.night import Night
from vmtests.nightly.outcome import END_SECONDS
from vmtests.nightly.runner import KIND


class NightJob(Job):
    """A job whose timeout is what is left of the night, and time for the last cell to end by itself."""

    def __init__(self, night: Night, config: dict[str, Any], suites: Sequence[TestSuite]) -> None:
        self._night = night
        super().__init__(config, suites)

    @property
    def timeout(self) -> float:
        """Seconds."""
        return self._night.seconds_left + 2 * END_SECONDS


class Retry(TestSuite):
    """Runs the cells that are not finished when its turn comes."""

    def __init__(self, name: str, night: Night, config: dict[str, Any]) -> None:
        self._night = night
        super().__init__(name, config=config, tests=[])

    def run(self, job: Job) -> set[str]:
        """Run them, if there are any and the night is not over."""
        self.tests = _runnables(self._night, self._night.unfinished() if self._night.seconds_left > 1 else [])
        return super().run(job) if self.tests else set()


def _runnables(night: Night, cells: Sequence[Cell]) -> list[Runnable]:
    older = [str(folder) for folder in nights.folders(night.results) if folder != night.folder]
    return [
        Runnable(
            KIND,
            cell.name,
            *cell.argv,
            identifier=cell.name,
            kernel=cell.kernel,
            deadline=str(night.deadline),
            disk=str(night.disk),
            results=str(night.results),
            older=older,
            ignored=[list(one) for one in night.ignored],
        )
        for cell in cells
    ]


def settings(night: Night) -> dict[str, Any]:
    """Return the job's settings: one cell at a time unless nightly.toml says that there are more hosts."""
    return {
        "run.results_dir": str(night.folder),
        "run.spawner": spawner.NAME,
        "run.max_parallel_tasks": 1,
        "sysinfo.collect.enabled": False,
        # Bytes of the log of each cell in results.xml.
        "job.run.result.xunit.max_test_log_chars": 20_000,
        "job.run.result.html.open_browser": False,
        **night.avocado,
    }


def run(night: Night) -> int:
    """Run what is unfinished of a night, and return avocado's exit code."""
    config = settings(night)
    first = TestSuite("cells", config=config, tests=_runnables(night, night.unfinished()))
    again = [Retry(f"retry-{number}", night, config) for number in range(1, night.retries + 1)]
    with NightJob(night, config, [first, *again]) as job:
        return job.run()


def _end_with_group(_signal: int, _frame: FrameType | None) -> None:
    """End what runs in our process group: the helpers of a remote spawner, by whose end ssh ends, and cells with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    os._exit(ExitCode.TERMINATED)


def main() -> int:
    """Run the job of the night whose folder is the argument, in a process group of its own."""
    signal.signal(signal.SIGTERM, _end_with_group)
    night = nights.read(Path(sys.argv[1]))
    if night is None:
        print(f"{sys.argv[1]} has no plan of a night", file=sys.stderr)
        return ExitCode.USAGE
    code = run(night)
    print(f"avocado's exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main())
