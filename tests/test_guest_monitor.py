"""The monitor against a server that speaks real QMP."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_qemu import messages
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest import Death, Monitor, MonitorError
from vmtests.guest.death import Cause, Witness
from vmtests.guest.log import CappedLog
from vmtests.guest.monitor import death_in

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}, "capabilities": ["oob"]}}


class Server:
    """QEMU's end of the socket; `answers` says what each command returns, None for no answer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.seen: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {}
        threading.Thread(target=self.serve, daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the client has left
            self.connection.sendall(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: Any) -> None:
        self.send({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}})

    def serve(self) -> None:
        self.send(GREETING)
        for command in messages(self.connection, []):
            self.seen.append(command)
            answer = self.answers.get(command["execute"], {"return": {}})
            if answer is not None:
                self.send({**answer, **({"id": command["id"]} if "id" in command else {})})

    def vanish(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)


class Rig:
    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self.death = Death()
        self.server = Server(theirs)
        self.log = CappedLog(folder / "qmp.log")
        self.monitor = Monitor(ours, self.log, self.death)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.monitor.close()
    made.server.connection.close()
    made.log.close()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_execute(rig: Rig, tmp_path: Path) -> None:
    rig.server.answers["query-status"] = {"return": {"status": "running"}}
    assert rig.monitor.execute("query-status") == {"status": "running"}
    arguments: dict[str, Any] = {"qom-type": "rng-builtin", "id": "rng"}
    assert rig.monitor.execute("object-add", **arguments) == {}
    assert rig.server.seen[-1]["arguments"] == arguments
    # No empty arguments for a command that takes none.
    assert "arguments" not in rig.server.seen[-2]
    log = (tmp_path / "qmp.log").read_text()
    assert '-> {"execute": "query-status"' in log
    assert '<- {"return": {"status": "running"}' in log


def test_refusal(rig: Rig) -> None:
    rig.server.answers["device_add"] = {"error": {"class": "GenericError", "desc": "no free slots available"}}
    with pytest.raises(MonitorError, match=r'refused device_add \{"driver": "nvdimm"\}: no free slots') as caught:
        rig.monitor.execute("device_add", driver="nvdimm")
    assert caught.value.reason == "no free slots available"


def test_no_answer(rig: Rig) -> None:
    rig.server.answers["stop"] = None
    with pytest.raises(HostFailure, match="waiting for QEMU to answer stop: no answer in 0.1 s"):
        rig.monitor.execute("stop", seconds=0.1)
    # The next command is not confused by it.
    assert rig.monitor.execute("cont") == {}


def test_dead_kernel_still_answers(rig: Rig) -> None:
    rig.death.report(Cause(Witness.CONSOLE, "Kernel panic", by_kernel=True))
    assert rig.monitor.execute("dump-guest-memory", paging=False) == {}


def test_qemu_vanishes(rig: Rig) -> None:
    rig.server.answers["stop"] = None
    threading.Timer(0.1, rig.server.vanish).start()
    end = Cause(Witness.EXIT, "QEMU ended on SIGKILL", by_kernel=False, status=-9)
    threading.Timer(0.3, rig.death.report, [end]).start()
    start = time.monotonic()
    with pytest.raises(HostFailure, match="QEMU ended on SIGKILL"):
        rig.monitor.execute("stop")
    assert time.monotonic() - start < 10


def test_broken_connection_without_a_cause(rig: Rig) -> None:
    rig.server.vanish()
    with pytest.raises(HostFailure, match="the connection broke"):
        rig.monitor.execute("stop")


def test_no_greeting() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(HostFailure, match="connecting to QEMU's monitor"):
        Monitor(ours, CappedLog(Path("/dev/null")), Death())


def test_events(rig: Rig) -> None:
    rig.server.event("RTC_CHANGE", offset=1)
    rig.server.event("RTC_CHANGE", offset=2)
    assert rig.monitor.wait_event("RTC_CHANGE", {"offset": 2}, 5)["data"] == {"offset": 2}
    # It is found again, and so is an earlier one.
    assert rig.monitor.wait_event("RTC_CHANGE", {}, 5)["data"] == {"offset": 1}
    assert [event["data"]["offset"] for event in rig.monitor.events()] == [1, 2]


def test_panic_ends_the_wait_for_another_event(rig: Rig) -> None:
    threading.Timer(0.1, rig.server.event, ["GUEST_PANICKED"], {"action": "run"}).start()
    with pytest.raises(KernelFailure, match="waiting for QEMU's event DEVICE_DELETED: the kernel panicked"):
        rig.monitor.wait_event("DEVICE_DELETED")
    assert rig.monitor.wait_event("GUEST_PANICKED", {}, 1)


def test_internal_error(rig: Rig) -> None:
    rig.server.answers["query-status"] = {"return": {"status": "internal-error"}}
    rig.server.event("STOP")
    eventually(lambda: rig.death.cause)
    assert rig.death.cause is not None
    assert not rig.death.cause.by_kernel
    assert "internal error" in rig.death.cause.message


def test_a_stop_that_was_asked_for(rig: Rig) -> None:
    rig.server.answers["query-status"] = {"return": {"status": "paused"}}
    rig.server.event("STOP")
    eventually(lambda: rig.server.seen[-1]["execute"] == "query-status")
    assert rig.monitor.execute("cont") == {}
    assert rig.death.cause is None


def test_close_twice(rig: Rig) -> None:
    rig.monitor.close()
    rig.monitor.close()


@pytest.mark.parametrize(
    ("name", "data", "witness", "by_kernel"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, Witness.PANIC_EVENT, True),
        ("SHUTDOWN", {"guest": True, "reason": "guest-panic"}, Witness.PANIC_EVENT, True),
        ("SHUTDOWN", {"guest": True, "reason": "guest-reset"}, Witness.STOP_EVENT, True),
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, Witness.STOP_EVENT, True),
        ("SHUTDOWN", {"guest": False, "reason": "host-signal"}, Witness.STOP_EVENT, False),
    ],
)
def test_deaths_among_events(name: str, data: dict[str, Any], witness: Witness, by_kernel: bool) -> None:
    cause = death_in(name, data)
    assert cause is not None
    assert (cause.witness, cause.by_kernel) == (witness, by_kernel)


def test_other_events_are_no_deaths() -> None:
    assert death_in("RESUME", {}) is None
    assert death_in("STOP", {}) is None
