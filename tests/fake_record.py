"""Run records on the disk, with the samples that a test wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.test_record import BIND, HOST
from vmtests.errors import ExitCode
from vmtests.record import (
    BindEntry,
    GuestEntry,
    HostEntry,
    KernelEntry,
    MemmapEntry,
    NamespaceEntry,
    Record,
    RecordWriter,
    read,
)

KERNEL = KernelEntry(
    name="base",
    release="7.3.4",
    config_sha256="c" * 64,
    source="linux-source-7.3 7.3.4-1",
    compiler="gcc 12.2.0",
    patches=(),
    build_seconds=None,
)
NAMESPACE = NamespaceEntry(id="fsdax-dev", mode="fsdax", map="dev", align_bytes=2 << 20, size_bytes=100 << 30)
GUEST = GuestEntry(
    kernel="base",
    boot=0,
    restored=False,
    rig="ssh",
    argv=("qemu-system-x86_64", "-m", "2G,slots=4", "-smp", "1", "-qmp", "unix:/run/x"),
    seconds_to_first_command=5.0,
)


def binds(kernel: str, values: Sequence[float], **fields: object) -> list[BindEntry]:
    """Return the binds of one boot a value: milliseconds, or instructions a page; first binds take five times that."""
    scale = BIND.pages if fields.get("clock") == "icount" else 1e6
    return [
        dataclasses.replace(BIND, kernel=kernel, boot=boot, index=index, duration_ns=round(time * scale), **fields)  # type: ignore[arg-type]
        for boot, value in enumerate(values)
        for index, time in enumerate([5 * value, value, value, value])
    ]


def record(
    folder: Path,
    values: Mapping[str, Sequence[float]],
    *,
    started: str | None = None,
    host: Mapping[str, object] | None = None,
    kernel: Mapping[str, object] | None = None,
    namespace: Mapping[str, object] | None = None,
    rig: str = "ssh",
    wrong: Sequence[str] = (),
    **fields: object,
) -> Record:
    """Write a record and read it.

    Args:
        folder: of the record.
        values: of the boots of each kernel, the base first; as for `binds`.
        started: when the run began; now if None.
        host, kernel, namespace: fields that differ from the usual ones.
        rig: of the guests.
        wrong: the kernels whose memmap is wrong.
        fields: of the binds.
    """
    writer = RecordWriter(folder, argv=["pytest"], seed=1)
    writer.set_host(dataclasses.replace(HOST, **(host or {})))  # type: ignore[arg-type]
    space = dataclasses.replace(NAMESPACE, **(namespace or {}))  # type: ignore[arg-type]
    writer.add(space)
    for name, boots in values.items():
        writer.add(dataclasses.replace(KERNEL, **({"name": name} | dict(kernel or {}))))  # type: ignore[arg-type]
        writer.add(dataclasses.replace(GUEST, kernel=name, rig=rig))
        writer.add(*binds(name, boots, **({"namespace": space.id, "rig": rig} | fields)))
    for name in wrong:
        writer.add(
            MemmapEntry(
                kernel=name,
                boot=0,
                namespace=space.id,
                bind_index=1,
                pages_expected=BIND.pages,
                pages_checked=BIND.pages,
                bytes_per_page_checked=64,
                poisoned=False,
                mismatches=1,
                seconds=0.1,
                read_limit_seconds=0.1,
                examples=(),
            )
        )
    if started is not None:
        writer._head["started"] = started
    writer.save(ExitCode.PASSED)
    return read(folder)


__all__ = ["GUEST", "HOST", "KERNEL", "NAMESPACE", "HostEntry", "binds", "record"]
