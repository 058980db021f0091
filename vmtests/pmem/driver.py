"""A namespace's driver, unbound and bound through sysfs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vmtests.guest import Guest
from vmtests.pmem.namespace import Namespace

#: On real hardware; a first bind of 100 GiB takes 1.5 s there.
SECONDS = 30.0


@dataclass(frozen=True)
class Driver:
    """The driver that holds a namespace: nd_pmem or dax_pmem."""

    guest: Guest
    namespace: Namespace

    @property
    def folder(self) -> str:
        """Its folder in the guest's sysfs, with the files bind and unbind."""
        return f"/sys/bus/nd/drivers/{self.namespace.driver}"

    @property
    def bound(self) -> bool:
        """Whether it holds the namespace now."""
        return self.guest.run(["test", "-e", f"{self.folder}/{self.namespace.device}"], check=False).status == 0

    def unbind(self) -> None:
        """Take the driver off; the memmap goes with it.

        Raises:
            KernelFailure: the kernel refused, or died of it.
        """
        self._write("unbind")

    def bind(self) -> None:
        """Put the driver on again, which initialises the memmap.

        Raises:
            KernelFailure: the kernel refused, or died of it.
        """
        self._write("bind")

    @contextmanager
    def unbound(self) -> Iterator[None]:
        """The body runs without the driver; leaving it puts the driver on again."""
        self.unbind()
        try:
            yield
        finally:
            if self.guest.alive:
                self.bind()

    def _write(self, file: str) -> None:
        self.guest.run(f"echo {shlex.quote(self.namespace.device)} > {self.folder}/{file}", seconds=SECONDS)


def unbind(guest: Guest, namespace: Namespace) -> None:
    """Take the driver off the namespace; see Driver.unbind."""
    Driver(guest, namespace).unbind()


def bind(guest: Guest, namespace: Namespace) -> None:
    """Put the driver on the namespace; see Driver.bind."""
    Driver(guest, namespace).bind()


def bind_at_once(guest: Guest, namespaces: Sequence[Namespace]) -> None:
    """Put the drivers on several namespaces, each by a process of its own, all begun together.

    Raises:
        KernelFailure: the kernel refused one, or died of it.
    """
    begin = [
        f'echo {shlex.quote(one.device)} > {Driver(guest, one).folder}/bind & tasks="$tasks $!"' for one in namespaces
    ]
    wait = "for task in $tasks; do wait $task || exit 1; done"
    guest.run("\n".join([*begin, wait]), seconds=SECONDS * len(namespaces))
