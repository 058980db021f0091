"""A guest that answers from a script, for tests of what is said to it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vmtests.errors import KernelFailure
from vmtests.guest import Death, Machine, MonitorError, Result


class FakeMonitor:
    """Answers commands from `answers`: a value, or the reason of a refusal as a str."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Mapping[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def execute(self, command: str, **arguments: Any) -> Any:
        self.seen.append((command, arguments))
        answer = self.answers.get(command, {})
        if isinstance(answer, str):
            raise MonitorError(command, arguments, answer, Death())
        return answer


class FakeGuest:
    """Answers commands by the first of `answers` whose key is in the command: stdout, or a status and stderr."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine("tcg")
        self.monitor = FakeMonitor()
        self.death = Death()
        self.alive = True
        self.seen: list[str] = []
        self.answers: dict[str, str | tuple[int, str]] = {}

    def run(
        self, command: Sequence[str] | str, *, check: bool = True, line: Callable[[str], None] | None = None, **_: Any
    ) -> Result:
        text = command if isinstance(command, str) else shlex.join(command)
        self.seen.append(text)
        answer = next((answer for key, answer in self.answers.items() if key in text), "")
        status, stdout, stderr = (0, answer, "") if isinstance(answer, str) else (answer[0], "", answer[1])
        if check and status:
            raise KernelFailure("a command failed in the guest", command=[text], status=status, output=stderr)
        if line is not None:
            for said in stdout.splitlines():
                line(said)
        return Result(status, stdout, stderr, 0.0)

    def wait_until(self, condition: str, *_: Any, **__: Any) -> str:
        return self.run(condition).stdout

    def dmesg(self) -> str:
        return self.run(["dmesg"]).stdout
