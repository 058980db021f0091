"""QEMU's process: started so that it cannot outlive us, and ended for sure."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

import psutil

from vmtests import command
from vmtests.errors import HostFailure, printable
from vmtests.guest.death import Cause, Witness
from vmtests.guest.log import LIMIT
from vmtests.host.qemu import PACKAGE

#: How long each step of the ladder quit, SIGTERM, SIGKILL may take.
STEP_SECONDS = 1.0

#: In each of QEMU's warnings about a feature of the CPU model, one a line for each virtual CPU.
_LACKS = "support requested feature"

#: What a signal that QEMU ends on means for whoever has to do something about it.
_MEANS = {
    signal.SIGBUS: ": one of its memory files has no room on the disk, or was cut short",
    signal.SIGKILL: ": somebody killed it, or the host, short of memory",
}

# The kernel sends the death signal when the *thread* that started the process ends (prctl(2), PR_SET_PDEATHSIG), so
# every QEMU is started by one thread that lives as long as we do. As signals are handled by the main thread only, a
# Ctrl-C cannot fall between the start of a process and its being known either. No ThreadPoolExecutor: interrupted while
# it starts its thread, it keeps the interpreter from exiting.
_jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()


def _serve() -> None:
    while True:
        _jobs.get()()


@functools.cache
def _starter() -> threading.Thread:
    thread = threading.Thread(target=_serve, name="qemu-starter", daemon=True)
    thread.start()
    return thread


def _start(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Run `start` in the thread that lives as long as we do."""
    future: Future[subprocess.Popen[bytes]] = Future()

    def job() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(start())
            except BaseException as error:
                future.set_exception(error)

    _starter()
    try:
        _jobs.put(job)
        return future.result()
    except BaseException:
        # Interrupted: the process may be being started all the same.
        if not future.cancel():
            with contextlib.suppress(Exception):
                future.result(10).kill()
        raise


class Process:
    """A running QEMU.

    Leaving the context ends it: `quit` is asked to first, then SIGTERM, then SIGKILL, each with a deadline.

    Args:
        argv: QEMU's arguments, its name first.
        stderr: the file that takes what it says.
        inherit: file descriptors that it gets, under the same numbers.
    """

    def __init__(self, argv: Sequence[str], *, stderr: Path, inherit: Sequence[int] = ()) -> None:
        self.argv = (command.require(argv[0], package=PACKAGE), *argv[1:])
        self.stderr = stderr
        self.quit: Callable[[], None] = lambda: None
        #: Whether we have ended it; otherwise its end is a death.
        self.ending = False
        self._popen = _start(lambda: self._launch(inherit))

    def _launch(self, inherit: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start it; called in the thread that lives as long as we do."""
        us = os.getpid()

        def die_with_us() -> None:
            """Run in the child before its exec: no moment is left in which our death would not reach it."""
            command.die_with_starter(signal.SIGKILL)
            if os.getppid() != us:
                os._exit(1)

        with self.stderr.open("wb") as sink:
            return subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=inherit,
                preexec_fn=die_with_us,
                # Ctrl-C in the terminal is for us: we end QEMU in our own order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def said(self) -> str:
        """Return the end of what QEMU wrote to its stderr, safe to show, without what the accelerator lacks."""
        with contextlib.suppress(OSError), self.stderr.open("rb") as source:
            source.seek(max(0, self.stderr.stat().st_size - 8192))
            lines = printable(source.read().decode(errors="backslashreplace")).splitlines()
            return "\n".join(line for line in lines if _LACKS not in line)
        return ""

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit status, negative for a signal; None if it still runs after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def obituary(self) -> Cause:
        """Wait for the end of the process and return it as a cause of death."""
        status = self._popen.wait()
        return Cause(Witness.EXIT, f"QEMU ended {_how(status)}", by_kernel=False, status=status, output=self.said())

    def examine(self) -> Cause | None:
        """Return what QEMU does not report itself: something has stopped it, or it complains without an end.

        Some of its complaints a guest can provoke as often as it likes (hw/char/virtio-serial-bus.c: unexpected ports).
        """
        with contextlib.suppress(OSError):
            if self.stderr.stat().st_size > LIMIT:
                return Cause(
                    Witness.EXIT,
                    f"QEMU (pid {self.pid}) has written more than {LIMIT >> 20} MiB to its stderr",
                    by_kernel=False,
                    output=self.said(),
                )
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
                return Cause(
                    Witness.EXIT, f"QEMU (pid {self.pid}) is stopped by a signal or a debugger", by_kernel=False
                )
        return None

    def end(self) -> None:
        """End QEMU, whatever state it is in.

        Raises:
            HostFailure: it is still there after SIGKILL.
        """
        self.ending = True
        try:
            if self.wait(0) is None:
                with contextlib.suppress(Exception):
                    self.quit()
                if self.wait(STEP_SECONDS) is None:
                    self._popen.terminate()
                    self.wait(STEP_SECONDS)
        finally:
            # In a finally: a second Ctrl-C must not save it.
            self._popen.kill()
            if self.wait(5 * STEP_SECONDS) is None:
                raise HostFailure(f"QEMU (pid {self.pid}) does not end, not even on SIGKILL", command=self.argv)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end()


def _how(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    number = signal.Signals(-status)
    return f"on {number.name}{_MEANS.get(number, '')}"


def pasteable(argv: Sequence[str]) -> str:
    """Return `argv` as a shell script: one option with its value per line."""
    lines: list[str] = []
    for word in argv:
        if lines and (word.startswith("-") or lines[-1].count(" ")):
            lines.append(shlex.quote(word))
        elif lines:
            lines[-1] += " " + shlex.quote(word)
        else:
            lines.append(shlex.quote(word))
    return "#!/bin/sh\nexec " + " \\\n    ".join(lines) + "\n"
