"""What the user asked for, checked when it is made."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vmtests import kernel
from vmtests.errors import UsageError
from vmtests.kernel import Recipe, Series
from vmtests.kernel.series import read

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def parse_size(text: str) -> int:
    """Return the bytes that "100G", "100GiB", "2M" or "4096" mean; units are powers of 1024."""
    found = re.fullmatch(r"(\d+)\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if found is None or not int(found[1]):
        raise UsageError(f"{text!r} is not a size: write a number of bytes, or one with K, M, G or T, such as 100G")
    return int(found[1]) << _UNITS[found[2].lower()]


def parse_percent(option: str, text: str) -> float:
    """Return the fraction that "1%" or "1" means."""
    try:
        return float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise UsageError(f"{option} {text}: write a percentage, such as 1%") from None


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def parse_duration(option: str, text: str) -> float:
    """Return the seconds that "30m", "2h", "90s" or "90" means."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip(), re.IGNORECASE)
    if found is None or not float(found[1]):
        raise UsageError(f"{option} {text}: write a time, such as 90s, 30m or 2h")
    return float(found[1]) * _SECONDS[found[2].lower()]


def whole_number(option: str, text: str) -> int:
    """Return the number that an option was given."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} {text}: write a whole number") from None


_DRAWN = random.SystemRandom().randrange(2**31)

#: What the kernels of --patch and --series are put on.
BASE = "base"

#: base with other configs: what its struct pages hold is different there.
OTHER_CONFIGS = ("hugetlb-memcg", "debug-vm")

_CHOICES = {
    "cc": ("gcc", "clang"),
    "mode": ("fsdax", "devdax"),
    "map": ("dev", "mem"),
    "accel": ("auto", "kvm", "tcg"),
    "clock": ("auto", "wall", "icount"),
    "rig": ("ssh", "sealed"),
    "dump": ("auto", "never"),
    "tier": ("quick", "full"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run; names as typed. Values that depend on the host stay "auto" until the host is known."""

    kernels: tuple[str, ...] = ()
    kernel_tree: str | None = None
    patches: tuple[Path, ...] = ()
    series: str | None = None
    config: Path | None = None
    fragments: tuple[Path, ...] = ()
    cc: str = "gcc"
    kernel_image: Path | None = None
    vmlinux: Path | None = None
    pmem_size: int = 100 << 30
    mode: str = "fsdax"
    map: str = "dev"
    align: int = 2 << 20
    rebinds: int = 30
    boots: str = "auto"
    budget: float | None = None
    accel: str = "auto"
    clock: str = "auto"
    rig: str = "ssh"
    cpu_model: str = "Icelake-Server"
    record: Path | None = None
    keep: bool = False
    dump: str = "auto"
    cold: bool = False
    tier: str = "quick"
    fresh: bool = False
    max_regression: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"--{name} {getattr(self, name)}: it can be {', '.join(known)}")
        if self.rebinds < 1:
            raise UsageError(f"--rebinds {self.rebinds}: at least one rebind is needed after the first bind")
        if self.boots != "auto" and not (self.boots.isdigit() and int(self.boots)):
            raise UsageError(f"--boots {self.boots}: give a number of boot pairs from 1, or auto")
        if self.series and (self.kernels or self.patches):
            raise UsageError("--series makes its own kernels, one a patch: leave out --kernel and --patch")
        if (self.kernel_image or self.vmlinux) and kernel.IMAGE not in self.kernel_names():
            raise UsageError(f"--kernel-image is the kernel {kernel.IMAGE!r}: name it by --kernel, beside the others")
        if self.clock == "icount" and self.accel == "kvm":
            raise UsageError("--clock icount counts instructions in TCG: it cannot go with --accel kvm")
        if self.rig == "sealed" and (self.clock == "wall" or self.accel == "kvm"):
            raise UsageError("--rig sealed counts instructions in TCG: it goes with --clock icount and --accel tcg")

    @property
    def counts(self) -> bool:
        """Whether these options alone say that instructions are counted."""
        return self.clock == "icount" or self.rig == "sealed"

    @property
    def patch_series(self) -> Series | None:
        """The patches of --series; UsageError if it cannot be meant."""
        return None if self.series is None else read(self.series, self.kernel_tree)

    def recipe(self, name: str) -> Recipe:
        """Return the recipe of a kernel by the name that the options give it."""
        series = self.patch_series
        if series is not None and name in series.kernels():
            base = self.recipe(BASE)
            return replace(base, name=name, patches=series.patches[: series.kernels().index(name) + 1])
        return kernel.resolve(
            name,
            sources=dict(given.split("=", 1) for given in self.kernels if "=" in given),
            tree=self.kernel_tree if series is None or series.base is None else series.base,
            patches=self.patches,
            config=self.config,
            fragments=self.fragments,
            cc=self.cc,
            image=self.kernel_image,
            vmlinux=self.vmlinux,
        )

    def check_kernels(self) -> None:
        """Raise UsageError for a kernel that there is no recipe for, before anything starts."""
        for name in self.kernel_names():
            self.recipe(name)

    def run_seed(self) -> int:
        """Return the seed that was given, or one drawn for this process."""
        return _DRAWN if self.seed is None else self.seed

    def kernel_names(self) -> tuple[str, ...]:
        """Return the kernels to run, the first being the base of comparisons."""
        if self.kernels:
            return tuple(name.partition("=")[0] for name in self.kernels)
        if (series := self.patch_series) is not None:
            return (BASE, *series.kernels())
        if self.kernel_image and not self.patches:
            return (kernel.IMAGE,)
        return (BASE, "patch") if self.patches else (BASE, "patched")

    def checked_kernels(self) -> tuple[str, ...]:
        """Return the kernels whose memmaps are checked: the full tier adds other configs, unless kernels were named."""
        named = self.kernels or self.series or self.kernel_image
        return self.kernel_names() + (OTHER_CONFIGS if self.tier == "full" and not named else ())
