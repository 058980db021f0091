"""A pytest plugin under which guests are numbers drawn by chance: whole runs of many boots in seconds.

What is left of a run is all that stands around the guests: the plan of boots, the looks, the verdict, the record, the
summary and the exit code. The environment variable FAKE_RUN holds a JSON object: `noise` between boots, `factors` by
which kernels are slower than 10 ms, `dead` boots as [kernel, number], `wobble` by which counts of one boot and the next
differ, `accelerator`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.fake_record import GUEST, KERNEL, NAMESPACE
from tests.test_record import BIND, HOST
from vmtests.errors import KernelFailure
from vmtests.host import Accelerator
from vmtests.pmem import NamespaceSpec
from vmtests.run.run import Run

_USUAL: dict[str, Any] = {"noise": 0.001, "factors": {}, "dead": [], "wobble": 0.0, "accelerator": "tcg"}
ASKED = _USUAL | json.loads(os.environ["FAKE_RUN"])
_RANDOM = np.random.default_rng(1)


class Drawn:
    """A bench whose binds are drawn."""

    def __init__(self, run: Run, kernel: str, boot: int) -> None:
        self._run, self._kernel, self._boot = run, kernel, boot
        self.rebinds = run.options.rebinds
        self._mood = float(_RANDOM.normal(0, ASKED["noise"])) if run.clock == "wall" else ASKED["wobble"] * boot
        host = dataclasses.replace(HOST, accelerator=ASKED["accelerator"])
        run.record.set_host(host)
        run.record.add(dataclasses.replace(GUEST, kernel=kernel, boot=boot), NAMESPACE)

    def create_namespace(self) -> None:
        self._bind(0)

    def check_memmap(self, _: object) -> None:
        if [self._kernel, self._boot] in ASKED["dead"]:
            raise KernelFailure(f"kernel {self._kernel} died in boot {self._boot}")

    def rebind(self, times: int) -> list[None]:
        for index in range(times):
            self._bind(index + 1)
        return [None]

    def rebind_over_poison(self, index: int) -> None:
        self._bind(index, poisoned=True)

    def _bind(self, index: int, *, poisoned: bool = False) -> None:
        time = 10e6 * ASKED["factors"].get(self._kernel, 1.0) * np.exp(self._mood) * (5 if index == 0 else 1)
        self._run.record.add(
            dataclasses.replace(
                BIND,
                kernel=self._kernel,
                boot=self._boot,
                index=index,
                duration_ns=round(time),
                clock=self._run.clock,
                poisoned=poisoned,
            )
        )


@contextmanager
def _bench(run: Run, kernel: str, _: NamespaceSpec, boot: int, **__: Any) -> Iterator[Drawn]:
    yield Drawn(run, kernel, boot)


def _kernel(run: Run, name: str) -> None:
    run.record.add(dataclasses.replace(KERNEL, name=name))


@pytest.hookimpl
def pytest_configure() -> None:
    """Put the drawn benches in the place of the real ones."""
    accelerator = Accelerator(ASKED["accelerator"], "as asked for", proven=True)
    for name, value in (("bench", _bench), ("kernel", _kernel), ("accelerator", accelerator)):
        setattr(Run, name, value)
