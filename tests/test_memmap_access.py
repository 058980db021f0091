"""drgn leaves a guest's monitor, which serves one at a time, whatever goes wrong and whoever keeps the error."""

from __future__ import annotations

import socket
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

from vmtests.errors import HostFailure
from vmtests.guest import monitor
from vmtests.memmap import access


class _Program:
    """As far as attached() needs one; unlike drgn's own it takes weak references."""

    made: weakref.ref[_Program] | None = None

    def __init__(self) -> None:
        type(self).made = weakref.ref(self)

    def set_qemu_qmp(self, _socket: str) -> None: ...


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr("vmtests.memmap.access.drgn.Program", _Program)
    monkeypatch.setattr(access, "require_free", lambda _: None)
    monkeypatch.setattr(access, "vmcoreinfo", lambda _: {})
    return SimpleNamespace(
        kernel=SimpleNamespace(name="k", vmlinux=tmp_path / "vmlinux"), drgn_socket=tmp_path / "drgn"
    )


def _gone() -> bool:
    return _Program.made is not None and _Program.made() is None


def test_an_error_before_it_is_open(guest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame that raised it has the program as an argument, and the error has the frame."""

    def load(program: object, *_: object) -> None:
        raise HostFailure(f"not of this build, {program is None}")

    monkeypatch.setattr(access, "load", load)
    with pytest.raises(HostFailure) as kept, access.attached(guest):
        pass
    assert _gone(), kept


def test_an_error_while_it_is_open(guest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(program: object) -> None:
        raise HostFailure(f"a page is wrong, {program is None}")

    monkeypatch.setattr(access, "load", lambda *_: None)
    with pytest.raises(HostFailure) as kept, access.attached(guest) as program:
        held = [program]
        del program
        look(held.pop())
    assert _gone(), kept


def test_a_monitor_that_somebody_has_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU lets the next one connect, and says nothing."""
    monkeypatch.setattr(monitor, "GREETING_SECONDS", 0.1)
    path = tmp_path / "guest-1" / "drgn"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.bind(str(path))
        qemu.listen()
        with pytest.raises(HostFailure, match=r"somebody else looks into guest-1 \(.*drgn is taken\): leave drgn"):
            monitor.require_free(path)
    with pytest.raises(HostFailure, match=r"guest-1 has no monitor any more \(.*\): it has ended"):
        monitor.require_free(path)
