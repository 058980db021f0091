"""The guest's console: kept in a file, watched line by line while it comes."""

from __future__ import annotations

import codecs
import itertools
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from vmtests.errors import printable
from vmtests.guest.death import Cause, Death, Witness
from vmtests.guest.log import CappedLog

#: Lines kept in memory, and bytes of one line: enough for a boot log and a few reports.
LINES = 4096
LINE_BYTES = 4096

#: What stands before a message of the kernel: its time (printk.time=1), and its thread or CPU with PRINTK_CALLER.
#: Not anchored: user space may have left an unfinished line on the console.
_STAMP = r"\[ *\d+\.\d{6}\](?: ?\[ *[CT]\d+\])? "
#: pr_fmt() of the file that prints, such as "rcu: " or "NMI watchdog: ".
_PREFIX = r"(?:[\w -]+: )*"


@dataclass(frozen=True)
class Pattern:
    """A class of the kernel's complaints, and how its message begins. Positions are those of 7.3.4."""

    name: str
    message: str


FATAL = (
    Pattern("KASAN", r"BUG: KASAN: "),  # mm/kasan/report.c:247
    Pattern("KMSAN", r"BUG: KMSAN: "),  # mm/kmsan/report.c:190
    Pattern("KFENCE", r"BUG: KFENCE: "),  # mm/kfence/report.c:252
    Pattern("soft lockup", r"BUG: soft lockup - "),  # kernel/watchdog.c:884
    Pattern("workqueue lockup", r"BUG: workqueue lockup - "),  # kernel/workqueue.c:8005
    Pattern("BUG", r"BUG: "),  # arch/x86/mm/fault.c:542, mm/page_alloc.c:643, kernel/sched/core.c:6079 and more
    Pattern("BUG", r"kernel BUG at "),  # lib/bug.c
    Pattern("SLUB", r"BUG .{1,64}? \((?:Not t|T)ainted"),  # mm/slub.c:1169, of a cache; bounded as below
    Pattern("oops", r"Oops: "),  # arch/x86/kernel/dumpstack.c:419
    Pattern("oops", r"[\w ,-]+: [0-9a-f]{4} \[#\d+\]"),  # the same before 6.11: "general protection fault: 0000 [#1]"
    Pattern("panic", r"Kernel panic - not syncing: "),  # kernel/panic.c:648
    Pattern("panic", r"PANIC: "),  # a double fault: arch/x86/kernel/traps.c
    Pattern("hard lockup", r"(?:CPU\d+: )?Watchdog detected hard LOCKUP"),  # kernel/watchdog.c:267
    # kernel/rcu/tree_stall.h:657, 734, 854 and tree_exp.h:570
    Pattern("RCU stall", r"INFO: \w+ (?:self-detected stall|detected stalls?|detected expedited stalls) ?"),
    # kernel/hung_task.c:254; bounded, as a hostile guest may print lines that take long to match
    Pattern("hung task", r"INFO: task .{1,64}? blocked\b.{0,64}? for more than \d+ seconds"),
)
#: Wrong, but the kernel goes on, and so does the test; they go into the run's record.
WARNINGS = (
    Pattern("WARNING", r"WARNING: "),  # kernel/panic.c:1090, kernel/locking/lockdep.c
    Pattern("UBSAN", r"UBSAN: "),  # lib/ubsan.c:225
)
#: The decompressor's error(), which has no time before it (arch/x86/boot/compressed/misc.c).
_HALTED = re.compile(r"^ -- System halted")


def _compiled(patterns: tuple[Pattern, ...]) -> re.Pattern[str]:
    return re.compile(_STAMP + _PREFIX + "(?:" + "|".join(f"({pattern.message})" for pattern in patterns) + ")")


_FATAL = _compiled(FATAL)
_WARNING = _compiled(WARNINGS)


def fatal(line: str) -> str | None:
    """Return the class of the death that this line of the console announces, or None."""
    if match := _FATAL.search(line):
        return FATAL[(match.lastindex or 1) - 1].name
    return "boot failure" if _HALTED.match(line) else None


def warning(line: str) -> str | None:
    """Return the class of the warning that this line of the console begins, or None."""
    match = _WARNING.search(line)
    return WARNINGS[(match.lastindex or 1) - 1].name if match else None


class Source(Protocol):
    """The host's end of the serial port: a socket, or what reads like one."""

    def recv(self, count: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...


class Console:
    """Reads the console in a thread until its end.

    Args:
        source: what QEMU writes the serial port to; closed at the end.
        log: takes every byte.
        death: learns of oopses, and wakes whoever waits for a line.
        ended: called in the thread after the last line, when QEMU has closed its end.
    """

    def __init__(self, source: Source, log: CappedLog, death: Death, ended: Callable[[], None] = lambda: None) -> None:
        self._source = source
        self._log = log
        self._death = death
        self._ended = ended
        self._lines: deque[str] = deque(maxlen=LINES)
        self._count = 0  # of all lines so far
        self._rest = ""
        self._fatal_seen = 0
        self.warnings: deque[str] = deque(maxlen=LINES)
        death.tail = self.tail
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)
        self._thread.start()

    def tail(self, lines: int = 30) -> str:
        """Return the last lines, safe to show on a terminal; from the first complaint on when there is one."""
        with self._death.lock:
            kept = [*self._lines, *([self._rest] if self._rest else [])]
            first = self._fatal_seen - (self._count - len(self._lines)) - 1 if self._fatal_seen else len(kept)
        start = max(0, min(first, len(kept) - lines))
        return "\n".join(printable(line) for line in kept[start:][:lines])

    def wait_for(self, pattern: str, seconds: float, *, silence: float | None = None, what: str | None = None) -> str:
        """Return the first line, of those kept and those to come, that the regular expression is found in.

        Raises:
            KernelFailure, HostFailure: the guest died or hangs; see Death.wait.
        """
        seen = 0
        wanted = re.compile(pattern)

        def found() -> str | None:
            nonlocal seen
            oldest = self._count - len(self._lines)
            new = itertools.islice(self._lines, max(0, seen - oldest), None)
            seen = self._count
            return next((line for line in new if wanted.search(line)), None)

        return self._death.wait(found, seconds, what or f"waiting for {pattern!r} on the console", silence=silence)

    def send(self, data: bytes) -> None:
        """Type into the serial port."""
        self._source.sendall(data)

    def join(self, seconds: float) -> None:
        """Wait until the last line has been read; QEMU must have ended."""
        self._thread.join(seconds)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        with self._source:
            while True:
                try:
                    data = self._source.recv(1 << 16)
                except OSError:
                    break
                if not data:
                    break
                self._log.write(data)
                self._take(decoder.decode(data))
        if self._rest:
            self._take("\n")
        self._ended()

    def _take(self, text: str) -> None:
        *lines, rest = (self._rest + text).split("\n")
        while len(rest) > LINE_BYTES:  # no line that never ends fills the memory
            lines.append(rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        with self._death.lock:
            self._rest = rest
            for line in lines:
                self._line(line.rstrip("\r"))
            self._death.heard()

    def _line(self, line: str) -> None:
        self._lines.append(line[:LINE_BYTES])
        self._count += 1
        if warning(line):
            self.warnings.append(printable(line))
        kind = fatal(line)
        if kind is not None and not self._fatal_seen:
            self._fatal_seen = self._count
            said = printable(re.sub(rf"^.*?{_STAMP}", "", line))
            self._death.report(Cause(Witness.CONSOLE, said, by_kernel=True, kind=kind))
