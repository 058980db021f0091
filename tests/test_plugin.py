"""The plugin: options are refused before anything starts, and every ending has its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forked import run_pytest
from vmtests.errors import ExitCode
from vmtests.record import EvidenceEntry, read

ROOT = Path(__file__).parent.parent


def _pytest(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the real cases, as a user would, with an empty cache."""
    return run_pytest(
        ["-p", "no:cacheprovider", "--rootdir", str(ROOT), *arguments],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment},
    )


CASES = str(ROOT / "vmtests" / "cases")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kernel", "nosuch"], "base"),
        (["--no-such-option"], "--no-such-option"),
        (["--pmem-size", "lots"], "'lots' is not a size"),
        (["--rebinds", "0"], "--rebinds 0"),
        (["--rebinds", "some"], "some"),
        (["--clock", "icount", "--accel", "kvm"], "--clock icount"),
        (["--patch", "/nonexistent.patch"], "/nonexistent.patch"),
        (["--kernel-tree", "/nonexistent"], "/nonexistent"),
        (["--max-regression", "much"], "much"),
        (["--dump", "often"], "--dump often: it can be auto, never"),
        (["-n", "2", "--clock", "wall", "--max-regression", "1%"], "-n 2"),
    ],
)
def test_usage(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = _pytest(tmp_path, CASES, *arguments)
    assert done.returncode == ExitCode.USAGE, done.stdout + done.stderr
    assert says in done.stdout + done.stderr


def test_nothing_collected_is_usage(tmp_path: Path) -> None:
    done = _pytest(tmp_path, CASES, "-k", "nosuchtest")
    assert done.returncode == ExitCode.USAGE
    assert "deselected" in done.stdout


def test_no_such_path_is_usage(tmp_path: Path) -> None:
    assert _pytest(tmp_path, str(tmp_path / "nowhere")).returncode == ExitCode.USAGE


def test_no_qemu_is_the_hosts_failure(tmp_path: Path) -> None:
    """Without QEMU the run ends at once, before a kernel is built."""
    done = _pytest(tmp_path, CASES, "-k", "rebind", "--record", str(tmp_path / "out"), PATH=str(tmp_path))
    assert done.returncode == ExitCode.HOST_FAILED, done.stdout + done.stderr
    assert "qemu-system-x86_64" in done.stdout
    assert (tmp_path / "out" / "run.json").exists()


def test_workers_write_one_record(tmp_path: Path) -> None:
    """What the workers find, here that there is no QEMU, becomes the one record and exit code of the run."""
    done = _pytest(tmp_path, CASES, "-k", "rebind", "-n", "2", "--record", str(tmp_path / "out"), PATH=str(tmp_path))
    assert done.returncode == ExitCode.HOST_FAILED, done.stdout + done.stderr
    found = read(tmp_path / "out")
    assert found.document["exit_code"] == ExitCode.HOST_FAILED
    assert "failures.txt" in [entry.path for entry in found.entries(EvidenceEntry)]
    assert str(tmp_path / "out") in done.stdout
    assert "tests are left to the full tier" in done.stdout


def test_ids_read_like_the_procedure(tmp_path: Path) -> None:
    done = _pytest(tmp_path, CASES, "--collect-only", "-q", "--seed", "1")
    assert "test_rebind[base-fsdax-dev]" in done.stdout
    assert "test_rebind[patched-fsdax-dev]" in done.stdout
    assert "test_memmap[patched-devdax-2m-mem]" in done.stdout
    assert "test_difference[patched-fsdax-dev]" in done.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_signals(tmp_path: Path, number: signal.Signals, code: ExitCode) -> None:
    test = tmp_path / "test_long.py"
    test.write_text("import time, pathlib\n\n\ndef test_long():\n    pathlib.Path('on').touch()\n    time.sleep(30)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(test)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell's background jobs ignore SIGINT, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "on").exists():
        assert time.monotonic() < deadline, "pytest did not start the test"
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == code


def test_other_projects_keep_their_exit_codes(tmp_path: Path) -> None:
    test = tmp_path / "test_other.py"
    test.write_text("def test_bad():\n    assert False\n")
    assert _pytest(tmp_path, str(test)).returncode == pytest.ExitCode.TESTS_FAILED
