"""Commands in a real guest: nothing of their output is lost, none outlives its deadline or the guest."""

import hashlib
import time
from pathlib import Path

import pytest

from vmtests.errors import KernelFailure
from vmtests.guest import shell
from vmtests.guest.keys import Keys
from vmtests.guest.log import CappedLog
from vmtests.run.run import Run

pytestmark = pytest.mark.full

MIB = 1 << 20


def test_nothing_is_lost(run: Run) -> None:
    """Both streams, to the last line, in the result and in the log; bytes as they are, in both directions."""
    with run.guest("base", 0) as guest:
        wanted = "".join(f"{number}\n" for number in range(1, 100_001))
        result = guest.run("seq 100000 & seq 100000 >&2; wait; exit 3", check=False)
        assert (result.status, result.stdout, result.stderr) == (3, wanted, wanted)
        assert guest.run("seq 100000").stdout == wanted
        assert f"$ seq 100000\n{wanted}[status 0, " in (guest.evidence / "commands.log").read_text()
        data = hashlib.shake_256(b"any").digest(2 * MIB)
        guest.write("/tmp/data", data)
        assert guest.read("/tmp/data") == data
        lines: list[str] = []
        for _ in range(20):  # short ones, whose end comes with their output
            guest.run("echo a; printf b", line=lines.append)
        assert lines == ["a", "b"] * 20


def test_output_is_in_the_log_as_it_comes(run: Run) -> None:
    """What a command said before the guest died is there."""
    seen = []
    with run.guest("base", 0) as guest:
        log = guest.evidence / "commands.log"
        guest.run("echo now; read _", line=lambda line: seen.append(line + "\n" in log.read_text()), stdin=b"\n")
    assert seen == [True]


def test_a_deadline_for_each(run: Run) -> None:
    started = time.monotonic()
    with (
        pytest.raises(KernelFailure, match=r"running `while :; do echo tick; sleep 1; done` in the guest: not done"),
        run.guest("base", 0) as guest,
    ):
        started = time.monotonic()
        guest.run("while :; do echo tick; sleep 1; done", seconds=1)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("command", "says"), [("reboot -f", "the guest reset itself"), ("poweroff -f", "the guest powered itself off")]
)
def test_a_guest_that_leaves_ends_the_command(run: Run, command: str, says: str) -> None:
    started = time.monotonic()
    with (
        pytest.raises(KernelFailure, match=rf"running `{command}; sleep 600` in the guest: {says}"),
        run.guest("base", 0) as guest,
    ):
        started = time.monotonic()
        guest.run(f"{command}; sleep 600", seconds=600)
    assert time.monotonic() - started < 10


def test_the_host_key_is_pinned(run: Run, tmp_path: Path) -> None:
    """Somebody else's host key is refused before anything is said; so is somebody else's key by the guest."""
    with run.guest("base", 0) as guest, CappedLog(tmp_path / "commands.log") as log:
        with pytest.raises(KernelFailure, match=r"Host key .* does not match"):
            shell.Shell(guest.port, Keys(), log, guest.death, guest.patience)
        assert guest.run(["true"]).status == 0
