"""Run records as a report gets them: made-up binds, real verdicts on them, memmap checks and evidence."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from tests.fake_record import GUEST, KERNEL, NAMESPACE
from tests.test_record import BIND, HOST
from vmtests.errors import ExitCode
from vmtests.record import (
    BindEntry,
    DifferenceEntry,
    EvidenceEntry,
    MemmapEntry,
    Record,
    RecordWriter,
    read,
)
from vmtests.timing import verdict

START = 0x100000
FIRST = START + 410112
END = START + 26214400

CHECK = MemmapEntry(
    kernel="base",
    boot=0,
    namespace="fsdax-dev",
    bind_index=0,
    pages_expected=END - FIRST,
    pages_checked=END - FIRST,
    bytes_per_page_checked=64,
    poisoned=False,
    mismatches=0,
    seconds=0.25,
    read_limit_seconds=0.125,
    examples=(),
    start_pfn=START,
    first_pfn=FIRST,
    end_pfn=END,
)

#: The end of the range was forgotten, in two fields, and one page at the beginning has a wrong count.
WRONG = dataclasses.replace(
    CHECK,
    kernel="patched",
    bind_index=31,
    poisoned=True,
    mismatches=500001,
    examples=(
        {"pfn": FIRST, "field": "_refcount", "got": "0x00000001", "wanted": "0x00000000"},
        {"pfn": END - 500000, "field": "flags", "got": "0xa5a5a5a5a5a5a5a5", "wanted": "0x0300000000002000"},
    ),
    wrong_fields=(
        {
            "field": "flags",
            "count": 500000,
            "first_pfn": END - 500000,
            "last_pfn": END - 1,
            "parts": [*[0] * 62, 90400, 409600],
        },
        {"field": "_refcount", "count": 1, "first_pfn": FIRST, "last_pfn": FIRST, "parts": [0, 1, *[0] * 62]},
    ),
)


def samples(kernel: str, boot: int, middle: float, clock: str, rebinds: int, **more: Any) -> list[BindEntry]:
    """Return the binds of one boot around a figure: milliseconds, or instructions a page; the last is over poison."""
    chance = random.Random(f"{kernel} {boot}")
    scale, spread = (BIND.pages, 1e-5) if clock == "icount" else (1e6, 0.03)
    found = []
    for index in range(rebinds + 2):
        value = middle * (1 + chance.gauss(0, spread)) * (1.0 if index or clock == "icount" else 5.0)
        duration = round(value * scale)
        bind = dataclasses.replace(
            BIND,
            kernel=kernel,
            boot=boot,
            index=index,
            duration_ns=duration,
            pr_debug_ms=round(duration / 1e6),
            bind_write_ns=duration + 13_000_000 if index else None,
            unbind_write_ns=8_000_000 if index else None,
            clock=clock,
            poisoned=index == rebinds + 1,
        )
        found.append(dataclasses.replace(bind, **more))
    return found


def full(
    folder: Path,
    *,
    clock: str = "icount",
    pairs: int = 2,
    rebinds: int = 30,
    kernels: tuple[tuple[str, float], ...] = (("base", 55.27), ("patched", 13.16)),
    namespaces: tuple[str, ...] = ("fsdax-dev",),
    checks: tuple[MemmapEntry, ...] = (CHECK,),
    differences: tuple[DifferenceEntry, ...] = (),
    warnings: tuple[str, ...] = (),
    argv: tuple[str, ...] = ("/usr/bin/pytest", "vmtests/", "-k", "rebind", "--record", "out", "--seed", "9"),
    failure: str | None = None,
    code: ExitCode = ExitCode.PASSED,
    kernel: dict[str, Any] | None = None,
) -> Record:
    """Write the record of a whole run and read it.

    Args:
        folder: of the record.
        clock, pairs, rebinds: how it was measured.
        kernels: names and figures, the base first.
        namespaces: their ids.
        checks, differences: of memmaps.
        warnings: of the kernels.
        argv: of the run.
        failure: what the evidence says, if something failed.
        code: how it ended.
        kernel: fields that all kernels have different from the usual ones.
    """
    writer = RecordWriter(folder, argv=list(argv), seed=4711)
    writer.set_host(HOST)
    writer.dmesg_warnings = list(warnings)
    writer.add(*(dataclasses.replace(NAMESPACE, id=name) for name in namespaces))
    patch = {"name": "0001-mine.patch", "sha256": "d" * 64}
    for place, (name, _) in enumerate(kernels):
        mine = dataclasses.replace(KERNEL, name=name, patches=(patch,) if place else ())
        writer.add(dataclasses.replace(mine, **(kernel or {})))
    for boot in range(pairs):
        for name, middle in kernels if boot % 2 else kernels[::-1]:
            writer.add(dataclasses.replace(GUEST, kernel=name, boot=boot))
            for space in namespaces:
                writer.add(*samples(name, boot, middle, clock, rebinds, namespace=space))
    writer.add(*checks, *differences)
    writer.add(*verdict.compare_all(writer.entries(BindEntry), [name for name, _ in kernels], clock))
    if failure is not None:
        (folder / "failures.txt").write_text(failure)
        writer.add(EvidenceEntry(kind="failure", path="failures.txt"))
    writer.save(code)
    return read(folder)
