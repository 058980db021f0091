"""Whether the guest's CPUs still take interrupts: one that does not is lost, and often only the host can see it.

The kernel's own watchdogs need an interrupt, a second CPU or a performance counter. A guest with one CPU under
emulation has none of them left once that spins with its interrupts off.
"""

from __future__ import annotations

import re
import time
from typing import Protocol

#: How long a CPU may leave an interrupt waiting, on real hardware, and how often that is looked at.
LOST_SECONDS = 5.0
EVERY_SECONDS = 0.5

#: The flag in RFLAGS without which a CPU takes no interrupt.
_IF = 1 << 9
_FLAGS = re.compile(r"^RIP=.*\bRFL=([0-9a-f]+)|^EIP=.*\bEFL=([0-9a-f]+)", re.M)
#: Interrupts that have reached the local APIC and wait for the CPU.
_WAITING = re.compile(r"^IRR\s+\d", re.M)


class Monitor(Protocol):
    """QEMU's human monitor."""

    def human(self, command: str, *, seconds: float) -> str: ...


class Pulse:
    """Feels the pulse of a guest; call it again and again while it is silent.

    A busy CPU has its interrupts off, and one waiting, at many a moment. So a CPU counts as lost only when it is found
    so at every look for a long time, in which the guest has not said anything either.

    Args:
        monitor: of its QEMU.
        patience: what deadlines are multiplied by.
    """

    def __init__(self, monitor: Monitor, patience: float) -> None:
        self._monitor = monitor
        self._limit = LOST_SECONDS * patience
        self._lost_since: dict[int, float] = {}
        self._felt = 0.0

    def __call__(self, silent_seconds: float) -> str:
        """Return what is wrong with the guest, which has said nothing for so long; "" as far as is known nothing.

        Raises:
            HostFailure: QEMU does not answer.
        """
        now = time.monotonic()
        if now - self._felt < EVERY_SECONDS:
            return ""
        if silent_seconds < EVERY_SECONDS or now - self._felt > 4 * EVERY_SECONDS:
            self._lost_since.clear()  # nobody has looked in between
        self._felt = now
        self._lost_since = {cpu: self._lost_since.get(cpu, now) for cpu in self._deaf()}
        cpu, since = min(self._lost_since.items(), key=lambda item: item[1], default=(0, now))
        return f"CPU {cpu} has taken no interrupt for {self._limit:g} s" if now - since >= self._limit else ""

    def _deaf(self) -> list[int]:
        """Return the CPUs that have their interrupts off now while one is waiting."""
        shown = self._monitor.human("info registers -a", seconds=5)
        off = [cpu for cpu, found in enumerate(_FLAGS.finditer(shown)) if not int(found[1] or found[2], 16) & _IF]
        return [cpu for cpu in off if _WAITING.search(self._monitor.human(f"info lapic {cpu}", seconds=5))]
