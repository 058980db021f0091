"""Unbinding and binding a namespace's driver, timed: the loop runs in the guest, from one command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from vmtests.errors import KernelFailure
from vmtests.guest import Guest
from vmtests.memmap.truth import RangeTruth
from vmtests.pmem import Namespace
from vmtests.record import BindEntry
from vmtests.timing.probes import MONO, Probes, Seen

# Marks go into the buffer that the probes write to, so that one clock times everything and no process is started.
_HEAD = """
exec 3> {mark}
unbind() {{ echo "unbind $1" >&3; echo {device} > {driver}/unbind || exit 1; echo "unbound $1" >&3; }}
bind() {{ echo "bind $1" >&3; echo {device} > {driver}/bind || exit 1; echo "bound $1" >&3; }}
"""
_LOOP = """
i={first}
while [ $i -le {last} ]; do
    unbind $i
    bind $i
    {progress}
    i=$((i + 1))
done
"""


@dataclass(frozen=True)
class Bind:
    """One bind: the range that the kernel was asked to initialise, and what it took.

    `index` 0 is the bind that making the namespace causes. `duration_ns` counts instructions under icount.
    """

    index: int
    truth: RangeTruth
    entry: BindEntry


@dataclass(frozen=True)
class Rebinder:
    """Binds one namespace again and again in one guest.

    Args:
        guest, namespace, probes: where, what, and the armed probes.
        boot: the number of this boot, for the record.
        clock: "wall" or "icount".
    """

    guest: Guest
    namespace: Namespace
    probes: Probes
    boot: int
    clock: str

    def first(self, *, poisoned: bool = False) -> Bind:
        """Return the bind that making the namespace caused: index 0. Call once, right after it."""
        seen = self.probes.collect()
        if len(seen) != 1:
            raise KernelFailure(
                f"making {self.namespace.name} initialised its memmap {len(seen)} times, not once: "
                "the first bind cannot be told apart"
            )
        return self.bind_of(0, seen[0], poisoned=poisoned)

    def rebind(
        self,
        first: int,
        last: int,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Bind]:
        """Unbind and bind the driver for index `first` to `last` and return the binds in order.

        Under the clock icount nothing is sent while the loop runs: what the network interrupts would be counted.
        """
        quiet = self.clock == "icount" or progress is None
        count = last - first + 1
        script = _LOOP.format(first=first, last=last, progress=":" if quiet else "echo $i")
        self._run(script, count, line=None if quiet or progress is None else lambda text: progress(int(text)))
        return self._collect(first, count, poisoned=False)

    def rebind_over(self, index: int, poison: Callable[[], None]) -> Bind:
        """Unbind the driver, let `poison` overwrite the memmap, bind the driver, and return that bind."""
        self._run(f"unbind {index}", 1)
        poison()
        self._run(f"bind {index}", 1)
        return self._collect(index, 1, poisoned=True)[0]

    def _run(self, script: str, count: int, line: Callable[[str], None] | None = None) -> None:
        head = _HEAD.format(
            mark=f"{MONO}/trace_marker",
            device=self.namespace.device,
            driver=f"/sys/bus/nd/drivers/{self.namespace.driver}",
        )
        with self.guest.quiet() if self.clock == "icount" else nullcontext():
            result = self.guest.run(head + script, seconds=30 + 30 * count, check=False, line=line)
        if result.status != 0:
            raise KernelFailure(
                f"unbinding or binding {self.namespace.device} by {self.namespace.driver} failed in the guest",
                output=result.stdout + result.stderr,
            )

    def _collect(self, first: int, count: int, *, poisoned: bool) -> list[Bind]:
        seen = self.probes.collect()
        if len(seen) != count:
            raise KernelFailure(
                f"{count} rebinds of {self.namespace.device} initialised the memmap {len(seen)} times: "
                "samples are missing"
            )
        return [self.bind_of(index, one, poisoned=poisoned) for index, one in enumerate(seen, start=first)]

    def bind_of(self, index: int, seen: Seen, *, poisoned: bool) -> Bind:
        """Return a call that the probes saw as the bind of this number."""
        return bind_from(
            seen,
            self.probes.marks,
            kernel=self.guest.kernel.name,
            boot=self.boot,
            namespace=self.namespace.id,
            index=index,
            clock=self.clock,
            poisoned=poisoned,
        )


def bind_from(
    seen: Seen,
    marks: Mapping[str, int],
    *,
    kernel: str,
    boot: int,
    namespace: str,
    index: int,
    clock: str,
    poisoned: bool = False,
    rig: str = "ssh",
) -> Bind:
    """Return one call and the marks of the sysfs writes around it as a bind; names as in BindEntry."""
    unbind, unbound, bind, bound = (marks.get(f"{word} {index}") for word in ("unbind", "unbound", "bind", "bound"))
    entry = BindEntry(
        kernel=kernel,
        boot=boot,
        namespace=namespace,
        index=index,
        pages=seen.pages,
        pr_debug_ms=seen.pr_debug_ms,
        duration_ns=seen.tsc if clock == "icount" else seen.duration_ns,
        tsc=seen.tsc,
        bind_write_ns=None if bind is None or bound is None else bound - bind,
        unbind_write_ns=None if unbind is None or unbound is None else unbound - unbind,
        clock=clock,
        poisoned=poisoned,
        rig=rig,
    )
    return Bind(index, seen.truth, entry)
