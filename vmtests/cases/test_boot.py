"""`vmtests boot`: a command in a guest whose NVDIMM is bound, a shell there, and a guest that runs on."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vmtests.guest import kept
from vmtests.run.run import Run

BOOT = (sys.executable, "-m", "vmtests.cli", "boot", "base")
SMALL = ("--pmem-size", "1G")


def boot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BOOT, *SMALL, *arguments], capture_output=True, text=True, timeout=600, check=False)


def test_exec(run: Run) -> None:
    """Its output and nothing else, its exit code, and the namespace bound; nothing is left."""
    run.kernel("base")
    done = boot("--exec", "echo /dev/pmem0*; echo oh >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "/dev/pmem0\n"), done.stderr
    assert done.stderr.endswith("oh\n")


@pytest.mark.full
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--mode", "devdax", "--align", "4K"], "/dev/dax0.0"),
        (["--mode", "devdax", "--map", "mem"], "/dev/dax0.0"),
        (["--no-namespace"], "/dev/pmem0 raw"),
    ],
)
def test_exec_with_another_namespace(run: Run, options: list[str], shown: str) -> None:
    run.kernel("base")
    done = boot(*options, "--exec", "ndctl list -N; ls /dev/pmem0 /dev/dax0.0 2>/dev/null")
    [namespace] = json.loads(done.stdout.partition("/dev/")[0])
    assert f"/dev/{namespace.get('blockdev') or namespace['chardev']}" in shown
    assert namespace["mode"] in ([*options, "raw"])


@pytest.mark.full
def test_a_panic_is_the_kernels_failure(run: Run) -> None:
    run.kernel("base")
    done = boot("--exec", "echo c > /proc/sysrq-trigger")
    assert done.returncode == 1
    assert "sysrq triggered crash" in done.stderr
    logs = re.findall(r"see: (.+/console\.log)", done.stderr)
    assert Path(logs[0]).exists()


@pytest.mark.full
def test_a_shell(run: Run) -> None:
    """On a terminal: what is typed runs in the guest, and `exit` ends it."""
    run.kernel("base")
    child, terminal = pty.fork()
    if not child:
        os.execv(BOOT[0], [*BOOT, *SMALL])
    seen = until(terminal, b"# ")
    assert b"/dev/pmem0 (fsdax-dev, namespace0.0)" in seen
    os.write(terminal, b"echo $((6 * 7)) $(uname -r)\r")
    assert until(terminal, b"42 7.")
    os.write(terminal, b"exit\r")
    until(terminal, None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def until(terminal: int, text: bytes | None) -> bytes:
    """Read until the text has come; None: until the terminal is closed."""
    seen = b""
    while text is None or text not in seen:
        try:
            seen += os.read(terminal, 1 << 10)
        except OSError:  # the other end has closed it
            assert text is None, seen
            break
    return seen


@pytest.mark.full
def test_keep(run: Run) -> None:
    """It runs on, its memmap can be checked, and it is gone when it is told to."""
    run.kernel("base")
    before = {guest.name for guest in kept.find_all()}
    done = boot("--keep", "--exec", "exit 3")
    [guest] = [guest for guest in kept.find_all() if guest.name not in before]
    try:
        assert done.returncode == 3, done.stderr
        assert f"vmtests memmap check {guest.name}" in done.stderr
        check = [*BOOT[:-2], "memmap", "check", guest.name]
        assert "0 wrong" in subprocess.run(check, capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        kept.end(guest)
