"""What is typed after `pytest`: the options of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmtests.run.options import Options, parse_duration, parse_percent, parse_size, whole_number

if TYPE_CHECKING:
    import pytest


def add_to(group: pytest.OptionGroup) -> None:
    """Add the options of a run to pytest's."""
    add = group.addoption
    add("--kernel", action="append", default=[], metavar="NAME[=DIR[@REV]]", help="a kernel to test; the first is base")
    add("--kernel-tree", metavar="DIR[@REV]", help="the source of base: a kernel tree of yours, never written to")
    add("--patch", action="append", default=[], type=Path, metavar="FILE", help="test base + this patch as `patch`")
    add("--series", metavar="A..B|MBOX", help="test base + each patch of a range or of an mbox, one on another")
    add("--kernel-image", type=Path, metavar="FILE", help="test a bzImage that you have built as `image`")
    add("--vmlinux", type=Path, metavar="FILE", help="its vmlinux, with DWARF or BTF")
    add("--config", type=Path, metavar="FILE", help="build with this .config")
    add("--config-fragment", action="append", default=[], type=Path, metavar="FILE", help="add these Kconfig lines")
    add("--cc", default="gcc", metavar="CC", help="the compiler: gcc or clang")
    add("--pmem-size", default="100G", metavar="SIZE", help="size of the NVDIMM (100G)")
    add("--mode", default="fsdax", metavar="MODE", help="mode of the namespace: fsdax or devdax")
    add("--map", default="dev", metavar="MAP", help="where its memmap lies: dev or mem")
    add("--align", default="2M", metavar="SIZE", help="its alignment: 4K, 2M or 1G")
    add("--rebinds", default="30", metavar="N", help="rebinds after the first bind of a boot (30)")
    add(
        "--boots",
        default="auto",
        metavar="N",
        help="pairs of boots; auto: 1 by icount, else until it is clear",
    )
    add("--budget", metavar="TIME", help="begin no pair of boots that would end later than this, such as 30m")
    add("--accel", default="auto", metavar="ACCEL", help="kvm, tcg; auto: KVM if it is proven")
    add("--clock", default="auto", metavar="CLOCK", help="wall, icount; auto: wall on KVM, icount on TCG")
    add("--rig", default="ssh", metavar="RIG", help="ssh, sealed: counts exact to the digit, from a guest left alone")
    add("--cpu-model", default="Icelake-Server", metavar="MODEL", help="the guest's CPU")
    add("--record", type=Path, metavar="DIR", help="where the run record goes (runs/TIME)")
    add("--keep", action="store_true", help="let the guest of a failed test run on, and the last one")
    add("--cold", action="store_true", help="boot every guest; start none from a snapshot")
    add("--dump", default="auto", metavar="WHEN", help="auto: of the first guest whose kernel fails a test; never")
    add("--tier", default="quick", metavar="TIER", help="quick: CI; full: every config, mutant and fault")
    add("--fresh", action="store_true", help="repeat what an unchanged run has done already")
    add("--max-regression", metavar="PERCENT", help="fail (exit 1) on a slowdown above this, such as 1%%")
    add("--seed", metavar="N", help="what every random choice comes from")


def read(value: Callable[[str], Any]) -> Options:
    """Return the options, whose values `value` gives by name; UsageError if one cannot be read."""
    limit = value("--max-regression")
    return Options(
        kernels=tuple(value("--kernel")),
        kernel_tree=value("--kernel-tree"),
        patches=tuple(value("--patch")),
        series=value("--series"),
        config=value("--config"),
        fragments=tuple(value("--config-fragment")),
        cc=value("--cc"),
        kernel_image=value("--kernel-image"),
        vmlinux=value("--vmlinux"),
        pmem_size=parse_size(value("--pmem-size")),
        mode=value("--mode"),
        map=value("--map"),
        align=parse_size(value("--align")),
        rebinds=whole_number("--rebinds", value("--rebinds")),
        boots=value("--boots"),
        budget=None if value("--budget") is None else parse_duration("--budget", value("--budget")),
        accel=value("--accel"),
        clock=value("--clock"),
        rig=value("--rig"),
        cpu_model=value("--cpu-model"),
        record=value("--record"),
        keep=value("--keep"),
        dump=value("--dump"),
        cold=value("--cold"),
        tier=value("--tier"),
        fresh=value("--fresh"),
        max_regression=None if limit is None else parse_percent("--max-regression", limit),
        seed=None if value("--seed") is None else whole_number("--seed", value("--seed")),
    )
