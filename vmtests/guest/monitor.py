"""QEMU's monitor (QMP) for callers that are not asynchronous: qemu.qmp runs in a thread, every call has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, ExecuteError, Message, QMPClient, StateError

from vmtests.errors import HostFailure
from vmtests.guest.death import Cause, Death, Witness
from vmtests.guest.log import CappedLog

T = TypeVar("T")

#: QEMU answers most commands in milliseconds; a busy host may take longer.
SECONDS = 30.0
#: How soon it greets who has just connected.
GREETING_SECONDS = 5.0
#: Events kept for those who ask for one after it came.
EVENTS = 1024

# What goes wrong is raised to the caller; without a handler logging would print it to the terminal as well.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class MonitorError(HostFailure):
    """QEMU understood a command and refused it; `reason` is its own text."""

    def __init__(self, command: str, arguments: Mapping[str, object], reason: str, death: Death) -> None:
        super().__init__(
            f"QEMU refused {command} {json.dumps(dict(arguments))}: {reason}",
            evidence=death.evidence,
        )
        self.reason = reason


def require_free(monitor: Path) -> None:
    """See that nobody is connected to a guest's monitor: it serves one at a time, and the next would wait for ever.

    Raises:
        HostFailure: somebody is, or the guest has ended.
    """
    name = monitor.parent.name
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(GREETING_SECONDS)
        try:
            connection.connect(str(monitor))
            connection.recv(1)
        except TimeoutError:
            raise HostFailure(f"somebody else looks into {name} ({monitor} is taken): leave drgn there first") from None
        except OSError as error:
            raise HostFailure(f"{name} has no monitor any more ({error.strerror}): it has ended") from error


class _Client(QMPClient):
    """Writes what is said into the QMP log."""

    def __init__(self, log: CappedLog) -> None:
        super().__init__("vmtests")
        self._log = log

    def _note(self, arrow: str, message: Message) -> Message:
        self._log.write(f"{time.time():.6f} {arrow} {json.dumps(dict(message))}\n".encode())
        return message

    def _cb_outbound(self, msg: Message) -> Message:
        return self._note("->", super()._cb_outbound(msg))

    def _cb_inbound(self, msg: Message) -> Message:
        return self._note("<-", super()._cb_inbound(msg))


class Monitor:
    """One connection to QEMU's monitor.

    Args:
        connection: the connected socket; owned by the monitor from now on.
        log: takes every message.
        death: learns of panics, resets and internal errors; its end of QEMU ends every call.

    Raises:
        HostFailure: QEMU ended, or did not greet.
    """

    def __init__(self, connection: socket.socket, log: CappedLog, death: Death) -> None:
        self._death = death
        self._events: deque[Mapping[str, Any]] = deque(maxlen=EVENTS)
        self._loop = asyncio.new_event_loop()
        # What matters is raised to the caller; a call that is given up must not fill the terminal.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._client = _Client(log)
        self._listener = EventListener()
        self._client.register_listener(self._listener)
        self._thread = threading.Thread(target=self._loop.run_forever, name="monitor", daemon=True)
        self._thread.start()
        try:
            self._call(self._client.connect(connection), SECONDS, "connecting to QEMU's monitor")
            asyncio.run_coroutine_threadsafe(self._watch(), self._loop)
        except BaseException:
            self._stop()
            raise

    def execute(self, command: str, *, seconds: float = SECONDS, **arguments: Any) -> Any:
        """Run a command and return its result; the kernel may be dead, QEMU may not.

        Raises:
            MonitorError: QEMU refused.
            HostFailure: QEMU ended, or did not answer within `seconds`.
        """
        try:
            return self._call(
                self._client.execute(command, arguments or None), seconds, f"waiting for QEMU to answer {command}"
            )
        except ExecuteError as error:
            raise MonitorError(command, arguments, str(error), self._death) from None

    def human(self, command: str, *, seconds: float = SECONDS) -> str:
        """Run a command of the human monitor, for what QMP lacks, and return what it shows."""
        return str(self.execute("human-monitor-command", seconds=seconds, **{"command-line": command}))

    def pass_file(self, name: str, descriptor: int) -> None:
        """Give QEMU a file of ours, which its commands know by `name` from now on.

        Raises:
            MonitorError, HostFailure: as for execute.
        """

        async def send() -> None:
            self._client.send_fd_scm(descriptor)

        self._call(send(), SECONDS, f"handing {name} to QEMU")
        self.execute("getfd", fdname=name)

    def wait_event(
        self, name: str, match: Mapping[str, Any] | None = None, seconds: float = SECONDS
    ) -> Mapping[str, Any]:
        """Return the first event of that name whose data contain `match`, of those that came and those to come.

        Raises:
            KernelFailure, HostFailure: the guest died, or the deadline passed.
        """
        wanted = dict(match or {})

        def found() -> Mapping[str, Any] | None:
            for event in self._events:
                data = event.get("data", {})
                if event["event"] == name and all(data.get(key) == value for key, value in wanted.items()):
                    return event
            return None

        return self._death.wait(found, seconds, f"waiting for QEMU's event {name}")

    def events(self) -> list[Mapping[str, Any]]:
        """Return the events so far, oldest first."""
        with self._death.lock:
            return list(self._events)

    def close(self) -> None:
        """Disconnect; QEMU may be there or not."""
        if self._loop.is_closed():
            return

        async def leave() -> None:
            # It raises EOFError when QEMU has gone, which at this point is no news.
            with contextlib.suppress(Exception):
                await self._client.disconnect()

        try:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(leave(), self._loop).result(5)
        finally:
            self._stop()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _stop(self) -> None:
        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(cancel(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T], seconds: float, what: str) -> T:
        """Run `coroutine` in the thread; QEMU's end or the deadline end it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.add_done_callback(self._death.wake)
        try:
            return self._death.wait(lambda: future if future.done() else None, seconds, what, outlive=True).result()
        except (ConnectError, ExecInterruptedError, StateError, EOFError, OSError) as error:
            # The connection broke: QEMU has died, and the console's thread is about to say so.
            self._death.settle()
            self._death.check(what)
            raise HostFailure(f"{what}: the connection broke: {error}", evidence=self._death.evidence) from error
        finally:
            future.cancel()

    async def _watch(self) -> None:
        async for event in self._listener:
            name, data = event["event"], event.get("data", {})
            with self._death.lock:
                self._events.append(event)
                self._death.condition.notify_all()
            if (cause := death_in(str(name), data if isinstance(data, dict) else {})) is not None:
                self._death.report(cause)
            elif name == "STOP":
                await self._why_stopped()

    async def _why_stopped(self) -> None:
        """Tell a stop that was asked for from KVM's internal error, which has no event of its own."""
        with contextlib.suppress(Exception):
            status = await self._client.execute("query-status")
            if isinstance(status, dict) and status.get("status") == "internal-error":
                self._death.report(
                    Cause(
                        Witness.INTERNAL_ERROR,
                        "QEMU stopped the guest with an internal error: this accelerator cannot run it",
                        by_kernel=False,
                    )
                )


def death_in(name: str, data: Mapping[str, Any]) -> Cause | None:
    """Return the death that an event of QEMU announces, or None (qapi/run-state.json)."""
    if name in ("GUEST_PANICKED", "GUEST_CRASHLOADED"):
        return Cause(Witness.PANIC_EVENT, "the kernel panicked", by_kernel=True)
    if name == "SHUTDOWN":
        reason = data.get("reason", "unknown")
        if reason == "guest-panic":
            return Cause(Witness.PANIC_EVENT, "the kernel panicked", by_kernel=True)
        if reason == "guest-reset":
            return Cause(Witness.STOP_EVENT, "the guest reset itself", by_kernel=True)
        if reason == "guest-shutdown":
            return Cause(Witness.STOP_EVENT, "the guest powered itself off", by_kernel=True)
        return Cause(Witness.STOP_EVENT, f"QEMU was ended from outside ({reason})", by_kernel=False)
    return None
