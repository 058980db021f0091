"""The supervisor of a guest that may outlive its test: starts QEMU and stays with it when the tests' process has gone.

A program of its own, started by process.py with `--keep` before anybody knows how the test will end. It needs nothing
but the standard library. Its only argument is JSON:

- `argv`, `inherit`: QEMU's arguments, and the file descriptors that it gets;
- `stderr`: the file that takes what QEMU says;
- `lifeline`: a socket; QEMU's process id is written to it, and its end is the end of the tests' process;
- `console`, `drain`: sockets that somebody must read when nobody else does any more, or QEMU would wait for ever: the
  console, which goes on in the file `log` up to `limit` bytes, and others;
- `pid_file`: takes our own process id;
- `outlives`: whether QEMU runs on when the tests' process has ended without a word about it.

Whatever else it inherits it holds: the locks of the guest's folders. It ends as QEMU ends, with the same status.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def _start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    us, libc = os.getpid(), ctypes.CDLL(None)

    def die_with_us() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != us:
            os._exit(1)

    with Path(job["stderr"]).open("wb") as sink:
        return subprocess.Popen(
            job["argv"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=job["inherit"],
            preexec_fn=die_with_us,
        )


class _Log:
    """The console's file, continued."""

    def __init__(self, path: str, limit: int) -> None:
        self._path, self._limit = Path(path), limit

    def write(self, data: bytes) -> None:
        # Its folder may have been removed, its disk be full: neither is a reason to stop reading.
        with contextlib.suppress(OSError), self._path.open("ab", buffering=0) as file:
            if file.tell() < self._limit:
                file.write(data)


def _watch(job: dict[str, Any], qemu: subprocess.Popen[bytes]) -> int:
    """Wait for QEMU's end and return its status; read for the tests' process once that has gone."""
    poll = select.poll()
    ended = os.pidfd_open(qemu.pid)
    for descriptor in (ended, job["lifeline"]):
        poll.register(descriptor, select.POLLIN)
    log = _Log(job["log"], job["limit"])
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == ended:
                return qemu.wait()
            if descriptor == job["lifeline"]:
                poll.unregister(descriptor)
                if not job["outlives"]:
                    qemu.kill()
                for source in (job["console"], *job["drain"]):
                    poll.register(source, select.POLLIN)
                continue
            try:
                data = os.read(descriptor, 1 << 16)
            except OSError:
                data = b""
            if not data:
                poll.unregister(descriptor)
            elif descriptor == job["console"]:
                log.write(data)


def main() -> int:
    """Supervise one QEMU."""
    job = json.loads(sys.argv[1])
    qemu = _start(job)

    def end(_signal: int, _frame: FrameType | None) -> None:
        qemu.terminate()

    signal.signal(signal.SIGTERM, end)
    for descriptor in job["inherit"]:
        os.close(descriptor)
    Path(job["pid_file"]).write_text(f"{os.getpid()}\n")
    with contextlib.suppress(OSError):  # the tests' process has gone already
        os.write(job["lifeline"], f"{qemu.pid}\n".encode())
    status = _watch(job, qemu)
    if status < 0:
        # End as QEMU did, without a core dump of our own.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler to be taken away
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main())
