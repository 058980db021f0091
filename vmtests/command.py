"""Running the host's programs: always a list of arguments, always a deadline, never a shell."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vmtests.errors import HostFailure

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_LIBC = ctypes.CDLL(None)  # not in a child before its exec, where little may be done


def require(program: str, *, package: str | None = None) -> str:
    """Return the path of `program`, or fail with the package that brings it."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        raise HostFailure(f"{program} is not installed: run `vmtests setup`, or install {package or program}")
    return found


def die_with_starter(death: signal.Signals) -> None:
    """Let this process get the signal `death` when the thread that has started it ends; for preexec_fn, too."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, death)


def tied(death: str, argv: Sequence[str]) -> list[str]:
    """Return the command that gets the signal `death`, such as "TERM", when the thread that starts it ends."""
    return [require("setpriv", package="util-linux"), "--pdeathsig", death, "--", *argv]


def run(
    argv: Sequence[str | Path],
    *,
    seconds: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    log: Path | None = None,
    line: Callable[[str], None] | None = None,
    check: bool = True,
    what: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its status and output (stdout and stderr together).

    The program runs in a process group of its own, which is killed when the deadline passes or when we are interrupted.

    Args:
        argv: program and arguments.
        seconds: the deadline.
        cwd, env: folder and *additional* environment.
        stdin: what it reads; nothing by default.
        log: a file that gets all of the output as well.
        line: called with each line as it comes.
        check: a non-zero status is a HostFailure.
        what: how the failure's message begins, such as "building kernel base failed".

    Raises:
        HostFailure: the program is missing, passes its deadline, or fails (with `check`).
    """
    words = [os.fspath(word) for word in argv]
    what = what or f"{Path(words[0]).name} failed"
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    evidence = [log] if log is not None else []
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise HostFailure(f"{what}: {words[0]} is not installed: run `vmtests setup`", command=words) from error
    try:
        output = _communicate(process, stdin, seconds, log, line)
    except subprocess.TimeoutExpired as error:
        raise HostFailure(
            f"{what}: not done within {seconds:.0f} s", command=words, output=_text(error.output), evidence=evidence
        ) from None
    finally:
        _end(process)
    if check and process.returncode != 0:
        raise HostFailure(what, command=words, status=process.returncode, output=output, evidence=evidence)
    return subprocess.CompletedProcess(words, process.returncode, output)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _communicate(
    process: subprocess.Popen[bytes],
    stdin: bytes | None,
    seconds: float,
    log: Path | None,
    line: Callable[[str], None] | None,
) -> str:
    if line is None and log is None:
        return _text(process.communicate(stdin, timeout=seconds)[0])
    collected: list[str] = []

    def drain() -> None:
        assert process.stdout is not None
        with (log or Path(os.devnull)).open("ab") as sink:
            for raw in process.stdout:
                sink.write(raw)
                text = raw.decode(errors="replace")
                collected.append(text)
                if line is not None:
                    line(text.rstrip("\n"))

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        error.output = "".join(collected).encode()
        raise
    reader.join(10)
    return "".join(collected)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole process group: a make that is interrupted must not leave compilers behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
