"""QEMU under a supervisor: for a guest that may outlive the tests' process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import HostFailure
from vmtests.guest.process import Process

#: How long the supervisor may take to start QEMU.
START_SECONDS = 30.0


@dataclass(frozen=True)
class Supervision:
    """What the supervisor of a guest needs that may outlive us; see supervisor.py.

    Attributes:
        console, drain: our ends of QEMU's sockets, by file descriptor.
        hold: what else it keeps open, such as the locks of the guest's folders.
        log, limit: the console's file, and the bytes that it may have.
        pid_file: takes the supervisor's process id.
        outlives: QEMU runs on after our end.
    """

    console: int
    drain: tuple[int, ...]
    hold: tuple[int, ...]
    log: Path
    limit: int
    pid_file: Path
    outlives: bool


class SupervisedProcess(Process):
    """A QEMU that is the child of a supervisor, which lives on when we have gone, and ends when QEMU does.

    Signals go to the supervisor: it hands on SIGTERM, and its own death is QEMU's.
    """

    def __init__(
        self, argv: Sequence[str], *, stderr: Path, inherit: Sequence[int] = (), supervision: Supervision
    ) -> None:
        self._supervision = supervision
        self._lifeline, theirs = socket.socketpair()
        with theirs:
            self._theirs = theirs.fileno()
            super().__init__(argv, stderr=stderr, inherit=inherit)
        try:
            self._lifeline.settimeout(START_SECONDS)
            with self._lifeline.makefile("rb") as source:
                self._pid = int(source.readline())
        except BaseException as error:
            self.end()
            if isinstance(error, ValueError | OSError):
                raise HostFailure("QEMU's supervisor did not start it", output=self.said()) from error
            raise

    @property
    def pid(self) -> int:
        return self._pid

    def _launch(self, inherit: Sequence[int]) -> subprocess.Popen[bytes]:
        wanted = self._supervision
        job = {
            "argv": self.argv,
            "inherit": list(inherit),
            "stderr": str(self.stderr),
            "lifeline": self._theirs,
            "console": wanted.console,
            "drain": wanted.drain,
            "log": str(wanted.log),
            "limit": wanted.limit,
            "pid_file": str(wanted.pid_file),
            "outlives": wanted.outlives,
        }
        return subprocess.Popen(
            # Isolated: nothing of the user's environment is imported, and nothing from its own folder.
            [sys.executable, "-I", Path(__file__).with_name("supervisor.py"), json.dumps(job)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[*inherit, self._theirs, wanted.console, *wanted.drain, *wanted.hold],
            start_new_session=True,
        )
