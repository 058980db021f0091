"""`pytest -n`: the workers of pytest-xdist share one record, one seed and one end.

The process that starts them, the controller, runs no test. It tells each worker where the record is and which seed to
use, and takes what the worker has recorded when that ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmtests import command
from vmtests.errors import ExitCode, UsageError
from vmtests.run.options import Options

if TYPE_CHECKING:
    from vmtests.run.run import Run

#: Our part of xdist's workerinput and workeroutput.
_KEY = "vmtests"


def check(options: Options, workers: object) -> None:
    """Refuse what only guests that run alone can tell.

    Args:
        options: of the run.
        workers: what was given to -n; None without it.

    Raises:
        UsageError: times were to decide, and guests would run side by side; or a budget has to be kept together.
    """
    if workers and options.budget is not None:
        raise UsageError(f"-n {workers} with --budget: no worker knows how far the others are; give --boots a number")
    if workers and options.clock == "wall" and options.max_regression is not None:
        raise UsageError(
            f"-n {workers} with --clock wall and --max-regression: guests side by side slow each other down, so their "
            "times cannot decide; leave out -n, or count instructions (--clock icount)"
        )


def become_worker(options: Options, workerinput: dict[str, Any]) -> Options:
    """Return the options of this worker, which from now on dies with the controller."""
    command.die_with_starter(signal.SIGKILL)
    given = workerinput[_KEY]
    if os.getppid() != given["pid"]:
        os._exit(ExitCode.BUG)
    return replace(options, record=Path(given["record"]), seed=given["seed"])


def report(workeroutput: dict[str, Any], codes: Sequence[ExitCode], left_out: int, run: Run | None) -> None:
    """Hand a worker's part of the run to the controller."""
    workeroutput[_KEY] = {
        "codes": [int(code) for code in codes],
        "left_out": left_out,
        "document": None if run is None else run.record.document(ExitCode.PASSED),
        "clock": None if run is None else run.clock_used,
        "kept": [] if run is None else [guest.name for guest in run.keeping.guests],
    }


@dataclass(frozen=True)
class Part:
    """What a worker has to tell in the end.

    Attributes:
        codes: of its failures.
        left_out: how many tests the tier leaves out; the same in all workers.
        document: its record; None when it has run no case.
        clock: None when it needed none.
        kept: the names of the guests that it has left running.
    """

    codes: tuple[ExitCode, ...]
    left_out: int
    document: dict[str, Any] | None
    clock: str | None
    kept: tuple[str, ...]


class Controller:
    """The hooks of xdist in the controller.

    Args:
        record: the folder of the record.
        seed: of the run.
        take: called with each worker's part.
    """

    def __init__(self, record: Path, seed: int, take: Callable[[Part], None]) -> None:
        self._given = {"record": str(record.absolute()), "seed": seed, "pid": os.getpid()}
        self._take = take

    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[_KEY] = self._given

    def pytest_testnodedown(self, node: Any, error: object) -> None:  # noqa: ARG002
        given = getattr(node, "workeroutput", {}).get(_KEY)
        if given is not None:
            codes = tuple(ExitCode(code) for code in given["codes"])
            self._take(Part(codes, given["left_out"], given["document"], given["clock"], tuple(given["kept"])))
