"""Whose failure an error is."""

from __future__ import annotations

import errno

import pytest

from vmtests import errors
from vmtests.cli import main
from vmtests.errors import ExitCode, HostFailure


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_hosts_failure(number: int) -> None:
    failure = errors.known(OSError(number, "No space", "/tmp/x"))
    assert isinstance(failure, HostFailure)
    assert failure.message.startswith("the disk is full at /tmp/x: free some room")


def test_other_errors_are_bugs() -> None:
    for error in (OSError(errno.EBADF, "Bad"), ValueError(), KeyboardInterrupt()):
        assert errors.known(error) is error


def test_the_command_on_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vmtests.cli.clean._clean", full)
    assert main(["clean"]) == ExitCode.HOST_FAILED
    assert "vmtests: the disk is full" in capsys.readouterr().err
