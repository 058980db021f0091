"""Namespaces: made by ndctl in the guest, and read back from what it says and what sysfs says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from vmtests.errors import KernelFailure, UsageError
from vmtests.guest import Guest, size
from vmtests.pmem.nvdimm import REGION_ALIGN_BYTES, Region

MODES = ("fsdax", "devdax", "raw")
MAPS = ("dev", "mem")
ALIGNMENTS = {"4k": 4 * size.KIB, "2m": 2 * size.MIB, "1g": size.GIB}

#: Before the memmap, for the info block (SZ_8K in nd_pfn_init(), drivers/nvdimm/pfn_devs.c).
_INFO_BYTES = 8 * size.KIB
_PAGE_BYTES = 4 * size.KIB
_STRUCT_PAGE_BYTES = 64


@dataclass(frozen=True)
class NamespaceSpec:
    """A kind of namespace.

    Attributes:
        mode: "fsdax", "devdax" or "raw".
        map: where its memmap lies: "dev" on the device, "mem" in RAM.
        align_bytes: 4 KiB, 2 MiB or 1 GiB; under devdax the size of its compound pages too.
        size_bytes: its share of the region; None takes all that is free.
    """

    mode: str = "fsdax"
    map: str = "dev"
    align_bytes: int = 2 * size.MIB
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        for what, value, known in (("mode", self.mode, MODES), ("map", self.map, MAPS)):
            if value not in known:
                raise UsageError(f"a namespace's {what} cannot be {value!r}: it can be {', '.join(known)}")
        if self.align_bytes not in ALIGNMENTS.values():
            nearest = min(ALIGNMENTS.values(), key=lambda align: abs(align - self.align_bytes))
            raise UsageError(
                f"a namespace's alignment cannot be {size.text(self.align_bytes)}: it can be 4 KiB, 2 MiB or 1 GiB; "
                f"the nearest is {size.text(nearest)}"
            )
        if self.size_bytes is not None:
            size.check(f"namespace {self.id}", self.size_bytes, multiple=self._multiple(), least=self.least())

    def _multiple(self) -> int:
        return max(self.align_bytes, REGION_ALIGN_BYTES)

    def least(self) -> int:
        """Return the least size that has room for data behind info block and memmap."""
        least = self._multiple()
        while self.data_offset(least) >= least:
            least += self._multiple()
        return least

    def data_offset(self, size_bytes: int) -> int:
        """Return where the data begin in an aligned namespace of this kind (nd_pfn_init())."""
        if self.mode == "raw":
            return 0
        memmap = _STRUCT_PAGE_BYTES * ((size_bytes - _INFO_BYTES) // _PAGE_BYTES) if self.map == "dev" else 0
        align = max(self.align_bytes, 2 * size.MIB)  # memremap_compat_align()
        return -(-(_INFO_BYTES + memmap) // align) * align

    @property
    def id(self) -> str:
        """Its short name: "fsdax-dev", "devdax-2m-mem", "raw"."""
        if self.mode == "raw":
            return "raw"
        align = next(name for name, value in ALIGNMENTS.items() if value == self.align_bytes)
        shown = "" if self.mode == "fsdax" and align == "2m" else f"{align}-"
        return f"{self.mode}-{shown}{self.map}"


#: Every kind of namespace that has a memmap: fsdax has single pages whatever its alignment, devdax folios of it.
KINDS = tuple(
    NamespaceSpec(mode, where, align)
    for mode, aligns in (("fsdax", (2 * size.MIB,)), ("devdax", tuple(ALIGNMENTS.values())))
    for align in aligns
    for where in MAPS
)


@dataclass(frozen=True)
class Namespace:
    """A namespace in a guest, as read back.

    Attributes:
        name: such as "namespace0.0".
        size_bytes: its share of the region.
        usable_bytes: what is left for data.
        start: the guest's physical address of its first byte.
        data_start: that of its data, behind info block and memmap.
        device, driver: what is to be unbound and bound on the bus "nd", such as pfn0.0 by nd_pmem, dax0.0 by dax_pmem.
        node: the file in the guest's /dev, such as "pmem0" or "dax0.0".
    """

    spec: NamespaceSpec
    name: str
    mode: str
    map: str
    align_bytes: int
    size_bytes: int
    usable_bytes: int
    region: Region
    start: int
    data_start: int
    device: str
    driver: str
    node: str

    @property
    def id(self) -> str:
        """The short name of its kind."""
        return self.spec.id


# A fresh NVDIMM has no labels: libnvdimm makes the whole region one raw namespace, which ndctl can turn into another
# kind, writing labels by the way, but not share out. Prints the region's type, its largest free piece, and its
# namespaces.
_STATE = """
cd /sys/bus/nd/devices/{region} && read -r nstype < nstype && read -r free < max_available_extent &&
echo $nstype $free namespace[0-9]*
"""
#: ND_DEVICE_NAMESPACE_IO (include/uapi/linux/ndctl.h).
_UNLABELLED_TYPE = 4
_LABEL = """
IFS=, read -r dimm rest < /sys/bus/nd/devices/{region}/mapping0 &&
ndctl disable-region {region} && ndctl init-labels $dimm && ndctl enable-region {region}
"""

# What sysfs says about a namespace, a line `NAME VALUE` each, then what ndctl says. `holder` is empty in mode raw.
_READ = """
cd /sys/bus/nd/devices || exit 1
read -r holder < {name}/holder
device=${{holder:-{name}}}
echo device $device
driver=$(readlink $device/driver) && echo driver ${{driver##*/}} || exit 1
read -r size < {name}/size && echo size $size
read -r start < {name}/resource && echo start $start
read -r data < $device/resource && echo data $data
ndctl list -N -n {name}
"""

# Prints the name of the region's namespace whose holder has a driver. Reading wait_probe takes the locks of all devices
# in turn (drivers/nvdimm/core.c), so that no probe is under way behind it.
_BOUND = """
read -r probed < /sys/bus/nd/devices/ndbus0/wait_probe
for namespace in /sys/bus/nd/devices/{region}/namespace[0-9]*; do
    read -r holder < $namespace/holder && [ -n "$holder" ] && [ -e /sys/bus/nd/devices/$holder/driver ] &&
    echo ${{namespace##*/}} && exit
done
false
"""


def create_namespace(guest: Guest, region: Region, spec: NamespaceSpec, *, seconds: float = 60.0) -> Namespace:
    """Make a namespace, which binds its driver and so initialises its memmap, and read it back.

    Args:
        guest, region, spec: where and what.
        seconds: the deadline on real hardware.

    Raises:
        UsageError: the region, or the guest's RAM, is too small for it.
        KernelFailure: it could not be made, or is not what was asked for.
    """
    nstype, free, *names = guest.run(_STATE.format(region=region.name)).stdout.split()
    unlabelled = int(nstype) == _UNLABELLED_TYPE
    _check_room(guest, region, spec, free=region.size_bytes if unlabelled else int(free))
    command = ["ndctl", "create-namespace", "-m", spec.mode]
    if spec.mode != "raw":
        command += ["-M", spec.map, "-a", str(spec.align_bytes)]
    if spec.size_bytes is not None:
        command += ["-s", str(spec.size_bytes)]
        if unlabelled:
            guest.run(_LABEL.format(region=region.name), seconds=seconds)
            unlabelled = False
    command += ["-f", "-e", *names] if unlabelled else ["-r", region.name]
    made = guest.run(command, seconds=seconds, check=False)
    if made.status != 0:
        raise KernelFailure(
            f"namespace {spec.id} could not be made on {region.name} ({size.text(region.size_bytes)})",
            command=command,
            status=made.status,
            output=made.stderr + "\n".join(guest.dmesg().splitlines()[-10:]),
            evidence=guest.death.evidence,
        )
    namespace = _read(guest, region, spec, json.loads(made.stdout)["dev"])
    _check_kind(namespace, spec)
    return namespace


def _check_kind(namespace: Namespace, spec: NamespaceSpec) -> None:
    asked = (spec.mode, spec.map, spec.align_bytes)
    got = (namespace.mode, namespace.map, namespace.align_bytes)
    if got != asked:
        raise KernelFailure(f"{namespace.name} was asked to have mode, map and alignment {asked}, but has {got}")


def find_namespace(guest: Guest, region: Region, spec: NamespaceSpec, *, seconds: float = 60.0) -> Namespace:
    """Read back the one namespace of its kind that came with the region, once its driver holds it.

    Args:
        guest, region, spec: where, and what it was made as.
        seconds: the deadline on real hardware for the driver.

    Raises:
        KernelFailure: there is none, or it is of another kind.
    """
    shown = guest.wait_until(_BOUND.format(region=region.name), seconds, what=f"the namespace of {region.name}")
    namespace = _read(guest, region, spec, shown.strip())
    _check_kind(namespace, spec)
    return namespace


def destroy_namespace(guest: Guest, namespace: Namespace) -> None:
    """Unbind the driver and take the namespace away; its part of the region is free again."""
    guest.run(["ndctl", "destroy-namespace", "-f", namespace.name])


def _check_room(guest: Guest, region: Region, spec: NamespaceSpec, free: int) -> None:
    """Refuse what the kernel would refuse with no more than an errno; `free` is the region's largest free piece."""
    wanted = spec.size_bytes or free
    if wanted > free or free == 0:
        raise UsageError(
            f"namespace {spec.id} has no room on {region.name}: it wants "
            f"{size.text(spec.size_bytes) if spec.size_bytes else 'what is free'}, and "
            f"{size.text(free) if free else 'nothing'} of {size.text(region.size_bytes)} is free in one piece"
        )
    if spec.data_offset(wanted) >= wanted:
        raise UsageError(
            f"namespace {spec.id} of {size.text(wanted)} has no room for data: info block and memmap take "
            f"{size.text(spec.data_offset(wanted))} of it; the nearest size is {size.text(spec.least())}"
        )
    # A compound page under devdax shares its tail pages' struct pages (mm/sparse-vmemmap.c); all others take 64 bytes.
    memmap = wanted // _PAGE_BYTES * _STRUCT_PAGE_BYTES
    if spec.map == "mem" and spec.mode == "fsdax" and memmap > guest.machine.memory_bytes // 2:
        raise UsageError(
            f"namespace {spec.id} of {size.text(wanted)} needs {size.text(memmap)} for its memmap, more than half of "
            f"the guest's RAM of {size.text(guest.machine.memory_bytes)}: take the map dev, a smaller size, or more RAM"
        )


def _read(guest: Guest, region: Region, spec: NamespaceSpec, name: str) -> Namespace:
    if re.fullmatch(r"namespace\d+\.\d+", name) is None:
        raise KernelFailure(f"ndctl names a namespace {name!r}")
    shown = guest.run(_READ.format(name=name)).stdout
    lines, bracket, listed = shown.partition("[")
    found = dict(line.split(" ", 1) for line in lines.splitlines() if line)
    entry = json.loads(bracket + listed)[0]
    return Namespace(
        spec=spec,
        name=name,
        mode=entry["mode"],
        # A raw namespace has neither.
        map=entry.get("map", spec.map),
        align_bytes=entry.get("align", spec.align_bytes),
        size_bytes=int(found["size"]),
        usable_bytes=entry["size"],
        region=region,
        start=int(found["start"], 16),
        data_start=int(found["data"], 16),
        device=found["device"],
        driver=found["driver"],
        node=entry.get("blockdev") or entry["chardev"],
    )
