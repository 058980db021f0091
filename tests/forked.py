"""Whole runs of pytest, each in a process that is forked off this one, which has imported already what they need.

Four fifths of such a run would be imports: numpy, scipy, paramiko and drgn take seconds.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

# What a run imports at its beginning and at its end.
import vmtests.image
import vmtests.plugin
import vmtests.report.summary
import vmtests.run.run
import vmtests.run.sealed

SECONDS = 60.0


def run_pytest(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run pytest with these arguments, as `python -m pytest` would, and return its exit code and output.

    Args:
        arguments: of the command line.
        cwd: the folder to run in.
        env: the environment, besides what pytest-xdist tells its workers.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os._exit(_run(arguments, cwd, {key: env[key] for key in env if not key.startswith("PYTEST_")}, out, err))
        ended = os.pidfd_open(child)
        try:
            if not select.select([ended], [], [], SECONDS)[0]:
                os.kill(child, signal.SIGKILL)
        finally:
            os.close(ended)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _run(arguments: Sequence[str], cwd: Path, env: Mapping[str, str], out: IO[str], err: IO[str]) -> int:
    """Become such a process; return its exit code."""
    try:
        gc.freeze()  # pytest ends with five collections, and our objects are not its own
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        vmtests.plugin._terminal.cache_clear()
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        sys.path[:0] = env.get("PYTHONPATH", "").split(os.pathsep)
        sys.argv = ["pytest", *arguments]
        code = int(pytest.main(list(arguments)))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return code
