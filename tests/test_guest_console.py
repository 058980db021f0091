"""The console's patterns on the kernel's own words, and the thread that reads them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from vmtests.errors import KernelFailure, printable
from vmtests.guest import Console, Death, console, trace
from vmtests.guest.console import fatal, warning
from vmtests.guest.log import CappedLog

FATAL_LINES = [
    ("BUG", "[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000008"),
    ("BUG", "[   12.345678][   T42] BUG: unable to handle page fault for address: ffa0000000401000"),
    ("BUG", "[    2.000000] kernel BUG at mm/memremap.c:123!"),
    ("BUG", "[    2.000000] BUG: Bad page state in process ndctl  pfn:10000"),
    ("BUG", "[    2.000000] BUG: scheduling while atomic: sh/63/0x00000002"),
    ("SLUB", "[    2.000000] BUG kmalloc-64 (Not tainted): Object already free"),
    ("SLUB", "[    2.000000] BUG radix_tree_node (Tainted: G    B   W          ): Poison overwritten"),
    ("oops", "[   12.345678] Oops: Oops: 0002 [#1] SMP NOPTI"),
    ("oops", "[   12.345678] Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP"),
    ("oops", "[   12.345678] general protection fault: 0000 [#1] SMP PTI"),
    ("oops", "[   12.345678] invalid opcode: 0000 [#1] PREEMPT SMP"),
    ("panic", "[    1.732568] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"),
    ("panic", "[    1.732568] traps: PANIC: double fault, error_code: 0x0"),
    ("KASAN", "[    3.100000] BUG: KASAN: slab-use-after-free in memmap_init_zone_device+0x10/0x20"),
    ("KFENCE", "[    3.100000] BUG: KFENCE: out-of-bounds read in foo+0x10/0x20"),
    ("soft lockup", "[   26.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:63]"),
    ("hard lockup", "[   26.000000] watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 0"),
    ("hard lockup", "[   26.000000] NMI watchdog: Watchdog detected hard LOCKUP on cpu 0"),
    ("RCU stall", "[   21.000000] rcu: INFO: rcu_sched self-detected stall on CPU"),
    ("RCU stall", "[   21.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"),
    ("RCU stall", "[   21.000000] rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 0-... }"),
    ("hung task", "[  123.000000] INFO: task sh:63 blocked for more than 122 seconds."),
    ("hung task", "[  123.000000] INFO: task kworker/0:1:9 blocked in I/O wait for more than 122 seconds."),
    # User space had left an unfinished line.
    ("panic", "vmtests: wait[    1.732568] Kernel panic - not syncing: Attempted to kill init!"),
    ("boot failure", " -- System halted"),
]

HARMLESS_LINES = [
    "[    0.000000] Command line: console=ttyS0 oops=panic panic=-1",
    "[    0.000000] Kernel panic timeout is -1",
    "BUG: said by a program",
    "Kernel panic - not syncing: said by a program",
    "[    2.852845] sysrq: Trigger a crash",
    "[    1.000000] traps: prog[63] general protection fault ip:401000 sp:7ffc0000 error:0 in prog[401000+1000]",
    "[    1.000000] INFO: NMI handler (nmi_cpu_backtrace_handler) took too long to run: 3.486 msecs",
    "[    1.000000] rcu: \tRCU restricting CPUs from NR_CPUS=64 to nr_cpu_ids=2.",
    "[    1.000000] clocksource: Watchdog remote CPU 1 read timed out",
    "[    1.000000] WARNING: mm/mm_init.c:1000 at memmap_init_zone_device+0x1/0x2, CPU#0: sh/63",
]


@pytest.mark.parametrize(("kind", "line"), FATAL_LINES)
def test_fatal_line(kind: str, line: str) -> None:
    assert fatal(line) == kind


@pytest.mark.parametrize("line", HARMLESS_LINES)
def test_harmless_line(line: str) -> None:
    assert fatal(line) is None


def test_warning_line() -> None:
    assert warning(HARMLESS_LINES[-1]) == "WARNING"
    assert warning("[    1.000000] WARNING: possible recursive locking detected") == "WARNING"
    assert warning("[    1.000000] UBSAN: shift-out-of-bounds in mm/foo.c:1:2") == "UBSAN"
    assert warning("WARNING: said by a program") is None


class Line:
    """A serial line with a console at its end."""

    def __init__(self, folder: Path) -> None:
        ours, self.guest = socket.socketpair()
        self.death = Death()
        self.ended = threading.Event()
        self.log = CappedLog(folder / "console.log")
        self.console = Console(ours, self.log, self.death, self.ended.set)

    def say(self, text: str) -> None:
        self.guest.sendall(text.encode())

    def hang_up(self) -> None:
        self.guest.close()
        assert self.ended.wait(5)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.guest.close()
    made.console.join(5)
    made.log.close()


def test_waits_for_a_line(line: Line) -> None:
    line.say("vmtests: re")
    threading.Timer(0.05, line.say, ["ady\r\n"]).start()
    assert line.console.wait_for(r"^vmtests: ready$", 5) == "vmtests: ready"
    # It is found again although it came before.
    assert line.console.wait_for(r"ready", 0.01) == "vmtests: ready"


def test_oops_ends_the_wait(line: Line) -> None:
    line.say("booting\n" + FATAL_LINES[0][1] + "\n[   12.400000] Call Trace:\n")
    with pytest.raises(KernelFailure, match=r"waiting.*: BUG: kernel NULL pointer dereference") as caught:
        line.console.wait_for("ready", 5)
    assert "Call Trace:" in caught.value.output
    assert line.death.cause is not None
    assert line.death.cause.kind == "BUG"


def test_tail_begins_at_the_complaint(line: Line) -> None:
    line.say("".join(f"before {n}\n" for n in range(100)) + FATAL_LINES[0][1] + "\n")
    line.say("".join(f"after {n}\n" for n in range(100)))
    line.hang_up()
    shown = line.console.tail(10).splitlines()
    assert shown[0] == FATAL_LINES[0][1]
    assert shown[1] == "after 0"
    assert len(shown) == 10


def test_tail_without_a_complaint(line: Line) -> None:
    line.say("one\ntwo\nthree")
    line.hang_up()
    assert line.console.tail(2) == "two\nthree"


def test_a_line_without_an_end(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINES", 10)
    line.say("x" * 1_000_000)
    line.hang_up()
    assert [len(shown) for shown in line.console.tail(2).splitlines()] == [console.LINE_BYTES, 1_000_000 % 4096]


def test_escapes_do_not_reach_the_terminal(line: Line) -> None:
    line.say("\x1b[31mred\x1b]0;title\x07 \u202e\tback\n")
    line.guest.sendall(b"\xff\n")
    line.hang_up()
    assert line.console.tail() == "\\x1b[31mred\\x1b]0;title\\x07 \\u202e\tback\n\\xff"


def test_characters_cut_in_two(line: Line) -> None:
    for byte in "grün\n".encode():
        line.guest.sendall(bytes([byte]))
    line.hang_up()
    assert line.console.tail() == "grün"


def test_warnings_are_kept(line: Line) -> None:
    line.say(HARMLESS_LINES[-1] + "\n")
    line.hang_up()
    assert list(line.console.warnings) == [HARMLESS_LINES[-1]]
    assert line.death.cause is None


def test_log_has_a_limit(tmp_path: Path) -> None:
    with CappedLog(tmp_path / "log", limit=10) as log:
        for _ in range(5):
            log.write(b"1234")
    text = (tmp_path / "log").read_text()
    assert text.startswith("1234123412\n[vmtests: the rest is not kept")
    assert len(text) < 100


def test_full_disk_costs_only_the_log() -> None:
    with CappedLog(Path("/dev/full")) as log:
        log.write(b"text")
        assert log.lost == "the rest is not kept: No space left on device"
        log.write(b"more")


def test_printable() -> None:
    assert printable("plain\n\ttext ü") == "plain\n\ttext ü"
    assert printable("a\rb\x00\x9b") == "a\\rb\\x00\\x9b"


#: Lines in whose beginnings a careless pattern finds a match again and again.
_STAMPED = "[    0.000000] "
SLOW_LINES = [
    _STAMPED + "INFO: task blocked: " * 300,
    (_STAMPED + "INFO: task a blocked ") * 300,
    _STAMPED + "a: " * 2000,
    _STAMPED * 300,
    "[" * 4096,
    "a." * 2048,
]


@pytest.mark.parametrize("line", SLOW_LINES, ids=lambda line: line[:30])
def test_no_line_takes_long(line: str) -> None:
    """A hostile guest can print lines made for the patterns; the thread that reads them holds the interpreter."""
    text = line[: console.LINE_BYTES]
    start = time.process_time()
    for _ in range(20):
        assert fatal(text) is None
        assert warning(text) is None
        trace.readable(text, None)
    assert time.process_time() - start < 1


def test_an_endless_console_takes_little(tmp_path: Path) -> None:
    """256 MiB without a pause, in long lines and short ones: neither the memory nor the file grows with them."""
    flood = b"x" * (1 << 20) + b"\x1b[2J\n" * 1000
    ours, theirs = socket.socketpair()
    ended, death = threading.Event(), Death()
    with CappedLog(tmp_path / "console.log", limit=1 << 20) as log, theirs:
        Console(ours, log, death, ended.set)
        theirs.sendall(flood)
        before = psutil.Process().memory_info().rss
        for _ in range(255):
            theirs.sendall(flood)
        theirs.shutdown(socket.SHUT_WR)
        assert ended.wait(60)
        assert psutil.Process().memory_info().rss - before < 64 << 20
    assert (tmp_path / "console.log").stat().st_size < (1 << 20) + 100
    assert death.cause is None
    assert "\x1b" not in death.tail()
