"""An NVDIMM, and plugging it into a running guest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtests.errors import HostFailure, UsageError
from vmtests.guest import Guest, MonitorError, size
from vmtests.guest.machine import option
from vmtests.pmem import labels

#: The least that QEMU takes (MIN_NAMESPACE_LABEL_SIZE, include/hw/mem/nvdimm.h).
LABEL_BYTES = 128 * size.KIB
#: A region's capacity is given out in such steps (MEMREMAP_COMPAT_ALIGN_MAX, drivers/nvdimm/region_devs.c:940).
REGION_ALIGN_BYTES = 16 * size.MIB


@dataclass(frozen=True)
class Nvdimm:
    """An NVDIMM with labels.

    Attributes:
        id: its name in QEMU.
        backing: the file that its content lies in, of backing_bytes(size_bytes) bytes.
        size_bytes: what namespaces can have, a multiple of 16 MiB.
        label_bytes: the label area, which QEMU cuts from the end of the file.
        node: its NUMA node, for a machine that has several.
    """

    id: str
    backing: Path
    size_bytes: int
    label_bytes: int = LABEL_BYTES
    node: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][\w.-]*", self.id, re.ASCII):
            raise UsageError(f"{self.id!r} cannot name an NVDIMM: a letter first, then letters, digits, '-', '.', '_'")
        self.check(self.size_bytes, f"NVDIMM {self.id}")
        size.check(f"the label area of NVDIMM {self.id}", self.label_bytes, multiple=4 * size.KIB, least=LABEL_BYTES)

    @staticmethod
    def check(size_bytes: int, what: str = "an NVDIMM") -> None:
        """Raise a UsageError, which calls it `what`, if none can be of this size."""
        size.check(what, size_bytes, multiple=REGION_ALIGN_BYTES)

    @staticmethod
    def backing_bytes(size_bytes: int, label_bytes: int = LABEL_BYTES) -> int:
        """Return the size of the backing file of an NVDIMM of `size_bytes`."""
        return size_bytes + label_bytes

    @property
    def memory_id(self) -> str:
        """The name of the memory backend in QEMU."""
        return f"{self.id}-memory"

    def _backend(self) -> dict[str, object]:
        return {
            "id": self.memory_id,
            "mem-path": str(self.backing),
            "size": self.backing_bytes(self.size_bytes, self.label_bytes),
            # The host reads and poisons the memmap in the same file.
            "share": True,
        }

    def _device(self) -> dict[str, object]:
        node = {} if self.node is None else {"node": self.node}
        return {"id": self.id, "memdev": self.memory_id, "label-size": self.label_bytes, **node}

    def argv(self) -> list[str]:
        """Return QEMU's arguments for an NVDIMM that is there from the start."""
        return [
            *("-object", option("memory-backend-file", self._backend())),
            *("-device", option("nvdimm", self._device())),
        ]

    def qmp(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Return the commands of the monitor that plug it, with their arguments."""
        return (
            ("object-add", {"qom-type": "memory-backend-file", **self._backend()}),
            ("device_add", {"driver": "nvdimm", **self._device()}),
        )


@dataclass(frozen=True)
class Region:
    """A region of the guest's libnvdimm: the physical range that an NVDIMM fills."""

    name: str
    # The guest's physical address.
    start: int
    size_bytes: int
    nvdimm: Nvdimm


# Finds the region by its address and prints its name and size, once libnvdimm has given it a namespace device.
_FIND = """
for region in /sys/bus/nd/devices/region*; do
    [ -e $region/resource ] && read -r start < $region/resource && [ "$start" = {start:#x} ] || continue
    set -- $region/namespace[0-9]*
    [ -e "$1" ] && read -r size < $region/size && echo ${{region##*/}} $size && exit
done
false
"""


def plug(guest: Guest, nvdimm: Nvdimm, *, seconds: float = 30.0) -> Region:
    """Plug an NVDIMM into the guest and wait until its region is there.

    Args:
        guest, nvdimm: where and what; the backing file exists.
        seconds: the deadline on real hardware for the region to appear.

    Raises:
        HostFailure: the backing file is not there or not of the right size, or its labels are damaged; the machine has
            no slot or no address space left for it.
        KernelFailure: the guest did not take it.
    """
    wanted = nvdimm.backing_bytes(nvdimm.size_bytes, nvdimm.label_bytes)
    try:
        found = nvdimm.backing.stat().st_size
    except OSError as error:
        raise HostFailure(f"the backing file {nvdimm.backing} of NVDIMM {nvdimm.id}: {error.strerror}") from error
    if found != wanted:
        raise HostFailure(
            f"the backing file {nvdimm.backing} has {found} bytes, but NVDIMM {nvdimm.id} needs {wanted}: "
            f"{size.text(nvdimm.size_bytes)} and {size.text(nvdimm.label_bytes)} for labels"
        )
    _check_labels(nvdimm)
    (add_memory, memory), (add_device, device) = nvdimm.qmp()
    guest.monitor.execute(add_memory, **memory)
    try:
        guest.monitor.execute(add_device, **device)
    except MonitorError as error:
        guest.monitor.execute("object-del", id=nvdimm.memory_id)
        raise _refused(guest, nvdimm, error) from error
    start = next(entry["addr"] for entry in _plugged(guest) if entry["id"] == nvdimm.id)
    shown = guest.wait_until(_FIND.format(start=start), seconds, what=f"the region of NVDIMM {nvdimm.id} at {start:#x}")
    name, size_text = shown.split()
    return Region(name=name, start=start, size_bytes=int(size_text), nvdimm=nvdimm)


def _check_labels(nvdimm: Nvdimm) -> None:
    """Refuse labels that the kernel would pass over: the namespace would be missing, and the kernel to blame."""
    with nvdimm.backing.open("rb") as file:
        file.seek(nvdimm.size_bytes)
        wrong = labels.damage(file.read(nvdimm.label_bytes))
    if wrong:
        raise HostFailure(
            f"the labels of NVDIMM {nvdimm.id} are damaged: {wrong}, from byte {nvdimm.size_bytes} of {nvdimm.backing} "
            "on. Take another file, or fill that area with zeros, which gives up the namespaces"
        )


def unplug(guest: Guest, nvdimm: Nvdimm) -> None:
    """Ask QEMU to take the NVDIMM out again, which no QEMU does so far; nothing is lost by asking.

    Raises:
        HostFailure: QEMU refused.
    """
    try:
        guest.monitor.execute("device_del", id=nvdimm.id)
    except MonitorError as error:
        raise HostFailure(
            f"NVDIMM {nvdimm.id} stays plugged, as QEMU refuses ({error.reason}): end the guest instead"
        ) from error


def _plugged(guest: Guest) -> list[Mapping[str, Any]]:
    return [entry["data"] for entry in guest.monitor.execute("query-memory-devices")]


def _refused(guest: Guest, nvdimm: Nvdimm, error: MonitorError) -> HostFailure:
    """Return the failure for a refused NVDIMM, with what the machine has left."""
    plugged = _plugged(guest)
    machine = guest.machine
    if len(plugged) >= machine.slots:
        names = ", ".join(str(entry["id"]) for entry in plugged) or "none"
        return HostFailure(
            f"NVDIMM {nvdimm.id} has no slot: the machine has {machine.slots}, and plugged are {names}; "
            "give the machine more slots"
        )
    room = machine.max_memory_bytes - machine.memory_bytes
    return HostFailure(
        f"QEMU refused NVDIMM {nvdimm.id} of {size.text(nvdimm.size_bytes)}: {error.reason}; {len(plugged)} of "
        f"{machine.slots} slots are in use, and maxmem leaves {size.text(room)} for all of them",
        evidence=error.evidence,
    )
