"""Options are checked when they are made; the order of boots is random, balanced and repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vmtests.errors import ExitCode, UsageError, worst
from vmtests.host import Accelerator
from vmtests.pmem import NamespaceSpec
from vmtests.run import plan
from vmtests.run.options import Options, parse_size
from vmtests.run.run import Run


@pytest.mark.parametrize(
    ("text", "size"),
    [("100G", 100 << 30), ("100GiB", 100 << 30), ("2m", 2 << 20), ("4096", 4096), ("4K", 4096), ("1T", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1G", "1.5G", "1X", "G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


def test_the_kernels_of_a_run() -> None:
    assert Options().kernel_names() == ("base", "patched")
    assert Options(kernels=("stock", "mine=/src@v7.3")).kernel_names() == ("stock", "mine")


def test_a_kernel_image_is_one_of_the_kernels() -> None:
    image = Path("bzImage")
    assert Options(kernel_image=image).kernel_names() == ("image",)
    assert Options(kernel_image=image, kernels=("base", "image")).kernel_names() == ("base", "image")
    for more in ({"kernels": ("base",)}, {"patches": (Path("mine.patch"),)}):
        with pytest.raises(UsageError, match="name it by --kernel"):
            Options(kernel_image=image, **more)


def test_the_full_tier_checks_other_configs_unless_kernels_are_named() -> None:
    assert Options().checked_kernels() == ("base", "patched")
    assert Options(tier="full").checked_kernels() == ("base", "patched", "hugetlb-memcg", "debug-vm")
    assert Options(tier="full", kernels=("stock",)).checked_kernels() == ("stock",)


@pytest.mark.parametrize(("name", "value"), [("rebinds", 0), ("boots", "0"), ("boots", "many")])
def test_bad_options(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"--{name}"):
        Options(**{name: value})  # type: ignore[arg-type]


def test_counting_instructions_needs_tcg() -> None:
    with pytest.raises(UsageError, match="icount"):
        Options(clock="icount", accel="kvm")


def test_pairs_are_back_to_back_and_balanced() -> None:
    cells = plan.order(["base", "patched"], 10, seed=3)
    pairs = [cells[i : i + 2] for i in range(0, 20, 2)]
    assert all({kernel for kernel, _ in pair} == {"base", "patched"} for pair in pairs)
    assert all(pair[0][1] == pair[1][1] == number for number, pair in enumerate(pairs))
    assert sum(pair[0][0] == "base" for pair in pairs) == 5
    assert plan.order(["base", "patched"], 10, seed=3) == cells
    assert any(plan.order(["base", "patched"], 10, seed=seed) != cells for seed in range(5))


def test_which_failure_wins() -> None:
    passed, no_verdict, failed = ExitCode.PASSED, ExitCode.NO_VERDICT, ExitCode.KERNEL_FAILED
    codes = [passed, no_verdict, failed, ExitCode.USAGE, ExitCode.HOST_FAILED, ExitCode.BUG]
    for count in range(1, 7):
        assert worst(codes[:count]) is codes[count - 1]
    assert worst([]) is ExitCode.PASSED


class Lender(Run):
    """A run whose guests are only words."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def bench(self, name: str, spec: NamespaceSpec, number: int, **_: Any) -> Iterator[Any]:  # noqa: ARG002
        self.said.append(f"boot {name} {number}")
        try:
            yield self
        finally:
            self.said.append("end")

    def destroy_namespace(self) -> None:
        self.said.append("destroy")


def test_counting_takes_tcg_and_one_cpu_whatever_the_run_uses() -> None:
    run = Lender()
    run.options = Options()
    run.__dict__["accelerator"] = Accelerator("kvm", "it works", True)
    plain, counted = run.machine(), run.machine(counted=True)
    assert (plain.accelerator, plain.icount, plain.cpus) == ("kvm", False, 2)
    assert (counted.accelerator, counted.icount, counted.cpus) == ("tcg", True, 1)


def test_kinds_share_a_guest_until_one_fails() -> None:
    run = Lender()
    with run.in_turns("base") as lend:
        with lend(NamespaceSpec()):
            pass
        with pytest.raises(OSError, match="wrong"), lend(NamespaceSpec()):
            raise OSError("wrong")
        for _ in range(2):
            with lend(NamespaceSpec()):
                pass
    assert run.said == ["boot base 0", "destroy", "end", "boot base 1", "destroy", "destroy", "end"]
