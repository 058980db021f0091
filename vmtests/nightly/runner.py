"""The runnable kind `vmtests-cell` of avocado: runs one cell and sends its record back through the status channel.

Whatever starts the runner (a process, a container, ssh), files come back as messages, in pieces that fit its buffer:
what a runner leaves in its output folder stays on the host that it ran on. A runner bounds itself by the night's
deadline, and it and all that it started end with whoever started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from avocado.core.nrunner.app import BaseRunnerApp
from avocado.core.nrunner.runnable import Runnable
from avocado.core.nrunner.runner import BaseRunner
from avocado.core.utils.messages import FileMessage, FinishedMessage, StartedMessage

from vmtests import cache
from vmtests.command import die_with_starter, tied
from vmtests.errors import HostFailure
from vmtests.nightly import disk, outcome
from vmtests.nightly.outcome import END_SECONDS, RECORD, Ignored, Outcome

KIND = "vmtests-cell"

#: Of one message; the status server takes lines of 32 MiB, and base64 adds a third.
PIECE_BYTES = 1 << 20
#: Of one file; of longer ones, but the record itself, only the end is sent.
FILE_BYTES = 8 << 20

_RESULTS = {outcome.PASSED: "pass", outcome.HOST_FAILED: "error", outcome.BUG: "error"}


class CellRunner(BaseRunner):
    """Runs the command of a cell; `runnable.uri` is the cell's name, its arguments the command.

    Keyword arguments: `kernel`, that of the cell's tree; `deadline`, in seconds since the epoch; `disk`, the budget in
    bytes for `results` and the caches of this host, and `older`, the nights that may go; `ignored`, as
    [[line, reason], ...].
    """

    name = KIND
    description = "Runs one cell of the nightly"
    CONFIGURATION_USED: ClassVar[list[str]] = []

    def run(self, runnable: Runnable) -> Iterator[dict[str, Any]]:
        """Yield the messages of one cell."""
        die_with_starter(signal.SIGTERM)
        yield StartedMessage.get()
        with _room() as room:
            try:
                _keep_to_budget(runnable, room / "disk.txt")
            except HostFailure as error:
                found = Outcome(runnable.uri, outcome.HOST_FAILED, "", (str(error),))
            else:
                found = yield from self._tests(runnable, room)
            (room / outcome.NAME).write_text(json.dumps(found.to_json(), indent=1) + "\n", encoding="utf-8")
            yield from _files(room)
        yield _finished(found)

    def _tests(self, runnable: Runnable, room: Path) -> Generator[dict[str, Any], None, Outcome]:
        """Yield messages while the tests run, and return what became of them."""
        ignored = [Ignored(*one) for one in runnable.kwargs["ignored"]]
        deadline = float(runnable.kwargs["deadline"])
        record = room / "record"
        began = time.monotonic()
        with _running([word.replace(RECORD, str(record)) for word in runnable.args], room / "log.txt") as process:
            yield from self.running_loop(lambda: process.poll() is not None or time.time() > deadline)
            status = process.poll()
        return outcome.judge(
            runnable.uri, runnable.kwargs["kernel"], record, status, ignored, round(time.monotonic() - began, 1)
        )


def _keep_to_budget(runnable: Runnable, log: Path) -> None:
    """Look at the disk budget; what goes is in the log, which is sent with the record."""

    def tell(text: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    said = runnable.kwargs
    disk.keep_to(int(said["disk"]), Path(said["results"]), [Path(folder) for folder in said["older"]], tell)


def _finished(found: Outcome) -> dict[str, Any]:
    reason = f"{found.verdict}: {found.reasons[0]}" if found.reasons else found.verdict
    return FinishedMessage.get(_RESULTS.get(found.verdict, "fail"), reason)


@contextmanager
def _room() -> Iterator[Path]:
    """Yield an empty folder of our own; those of runners that were killed go."""
    rooms = cache.root() / "cells"
    rooms.mkdir(exist_ok=True)
    with cache.locked(rooms / ".lock"):
        for rest in rooms.glob("[!.]*"):
            if cache.alone(rest):
                shutil.rmtree(rest, ignore_errors=True)
        room = Path(tempfile.mkdtemp(dir=rooms))
        cache.hold(room)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _running(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that ends when we do; what is left of it in the end is told to end, then killed."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            tied("TERM", argv), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _files(room: Path) -> Iterator[dict[str, Any]]:
    """Yield all files of a room in pieces, the outcome last."""
    paths = [path for path in sorted(room.rglob("*")) if path.is_file() and path.name != outcome.NAME]
    for path in [*paths, room / outcome.NAME]:
        name = path.relative_to(room).as_posix()
        with path.open("rb") as file:
            if path.name != "run.json":
                file.seek(max(path.stat().st_size - FILE_BYTES, 0))
            piece = file.read(PIECE_BYTES)
            while True:
                yield FileMessage.get(piece, name)
                piece = file.read(PIECE_BYTES)
                if not piece:
                    break


class RunnerApp(BaseRunnerApp):
    """The command line by which avocado asks for a cell."""

    PROG_NAME = f"avocado-runner-{KIND}"
    PROG_DESCRIPTION = "nrunner application for cells of the nightly"
    RUNNABLE_KINDS_CAPABLE: ClassVar[list[str]] = [KIND]


def main() -> None:
    """Run the application."""
    RunnerApp(print).run()


if __name__ == "__main__":
    main()
