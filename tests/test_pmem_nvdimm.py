"""NVDIMMs: what QEMU is told, what it refuses, and the region that is waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.fake_guest import FakeGuest
from vmtests.errors import HostFailure, UsageError
from vmtests.guest import Guest, size
from vmtests.pmem import Nvdimm, plug, unplug

BACKEND = {"id": "nvdimm0-memory", "mem-path": "/w/a,b", "size": 100 * size.GIB + 131072, "share": True}
DEVICE = {"id": "nvdimm0", "memdev": "nvdimm0-memory", "label-size": 131072}


def test_qmp_and_argv_say_the_same() -> None:
    nvdimm = Nvdimm("nvdimm0", Path("/w/a,b"), 100 * size.GIB)
    assert nvdimm.qmp() == (
        ("object-add", {"qom-type": "memory-backend-file", **BACKEND}),
        ("device_add", {"driver": "nvdimm", **DEVICE}),
    )
    assert nvdimm.argv() == [
        "-object",
        "memory-backend-file,id=nvdimm0-memory,mem-path=/w/a,,b,size=107374313472,share=on",
        "-device",
        "nvdimm,id=nvdimm0,memdev=nvdimm0-memory,label-size=131072",
    ]


def test_node() -> None:
    nvdimm = Nvdimm("nvdimm0", Path("/w"), size.GIB, node=1)
    assert nvdimm.qmp()[1][1]["node"] == 1
    assert nvdimm.argv()[-1].endswith(",node=1")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"size_bytes": 100 * size.GIB - 131072},
            r"NVDIMM a cannot be 104857472 KiB: it must be a multiple of 16 MiB, at least 16 MiB; "
            r"the nearest is 102384 MiB \(107357405184\) or 100 GiB \(107374182400\)",
        ),
        ({"size_bytes": 0}, r"cannot be 0 bytes: .* the nearest is 16 MiB"),
        ({"label_bytes": 4096}, r"label area of NVDIMM a cannot be 4 KiB: .* the nearest is 128 KiB"),
        ({"id": "a,b"}, r"'a,b' cannot name an NVDIMM"),
        ({"id": "0"}, r"'0' cannot name an NVDIMM"),
    ],
)
def test_refused(changed: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {"id": "a", "backing": Path("/w"), "size_bytes": size.GIB}
    Nvdimm(**good)
    with pytest.raises(UsageError, match=said):
        Nvdimm(**{**good, **changed})


class Rig:
    def __init__(self, folder: Path) -> None:
        self.fake = FakeGuest()
        self.guest = cast(Guest, self.fake)
        self.nvdimm = Nvdimm("nvdimm0", folder / "nvdimm0", size.GIB)
        with self.nvdimm.backing.open("wb") as handle:
            handle.truncate(Nvdimm.backing_bytes(size.GIB))
        self.plugged("nvdimm0")
        self.fake.answers["/sys/bus/nd/devices/region"] = f"region0 {size.GIB}\n"

    def plugged(self, *names: str) -> None:
        entries = [
            {"type": "nvdimm", "data": {"id": name, "addr": 0x100000000 + index * 2 * size.GIB}}
            for index, name in enumerate(names)
        ]
        self.fake.monitor.answers["query-memory-devices"] = entries


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_plug(rig: Rig) -> None:
    rig.plugged("other", "nvdimm0")
    region = plug(rig.guest, rig.nvdimm)
    assert (region.name, region.start, region.size_bytes) == ("region0", 0x180000000, size.GIB)
    assert rig.fake.monitor.seen[:2] == list(rig.nvdimm.qmp())
    # The region is known by its address.
    assert '"$start" = 0x180000000' in rig.fake.seen[0]


def test_refused_for_want_of_a_slot(rig: Rig) -> None:
    rig.plugged("a", "b", "c", "d")
    rig.fake.monitor.answers["device_add"] = "memory slots are gone"
    with pytest.raises(HostFailure, match=r"NVDIMM nvdimm0 has no slot: the machine has 4, and plugged are a, b, c, d"):
        plug(rig.guest, rig.nvdimm)
    # Nothing of it stays in QEMU.
    assert ("object-del", {"id": "nvdimm0-memory"}) in rig.fake.monitor.seen


def test_refused_for_another_reason(rig: Rig) -> None:
    rig.plugged("a")
    rig.fake.monitor.answers["device_add"] = "not enough space"
    with pytest.raises(HostFailure, match=r"nvdimm0 of 1 GiB: not enough space; 1 of 4 slots are in use, .* 510 GiB"):
        plug(rig.guest, rig.nvdimm)


def test_wrong_backing_file(rig: Rig) -> None:
    with rig.nvdimm.backing.open("r+b") as handle:
        handle.truncate(size.GIB)
    with pytest.raises(HostFailure, match=r"has 1073741824 bytes, but NVDIMM nvdimm0 needs 1073872896: 1 GiB and 128"):
        plug(rig.guest, rig.nvdimm)
    assert not rig.fake.monitor.seen


def test_no_backing_file(rig: Rig) -> None:
    rig.nvdimm.backing.unlink()
    with pytest.raises(HostFailure, match=r"of NVDIMM nvdimm0: No such file"):
        plug(rig.guest, rig.nvdimm)
    assert not rig.fake.monitor.seen


def test_damaged_labels(rig: Rig) -> None:
    with rig.nvdimm.backing.open("r+b") as handle:
        handle.seek(size.GIB + 5)
        handle.write(b"x")
    with pytest.raises(HostFailure, match=r"labels of NVDIMM nvdimm0 are damaged: index block 0 .* byte 1073741824 of"):
        plug(rig.guest, rig.nvdimm)
    assert not rig.fake.monitor.seen


def test_unplug(rig: Rig) -> None:
    rig.fake.monitor.answers["device_del"] = "nvdimm device hot unplug is not supported yet."
    with pytest.raises(HostFailure, match=r"NVDIMM nvdimm0 stays plugged, as QEMU refuses \(nvdimm device hot unplug"):
        unplug(rig.guest, rig.nvdimm)
    assert rig.nvdimm.backing.exists()
