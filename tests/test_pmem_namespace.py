"""Namespaces: their kinds and sizes, what ndctl is told, and what is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.fake_guest import FakeGuest
from vmtests.errors import KernelFailure, UsageError
from vmtests.guest import Guest, size
from vmtests.pmem import (
    Driver,
    Namespace,
    NamespaceSpec,
    Nvdimm,
    Region,
    bind,
    bind_at_once,
    create_namespace,
    destroy_namespace,
    find_namespace,
    unbind,
)

REGION = Region("region0", 0x100000000, 100 * size.GIB, Nvdimm("nvdimm0", Path("/w"), 100 * size.GIB))

# As ndctl 76 and 7.3.4 showed them.
FSDAX: dict[str, Any] = {
    "dev": "namespace0.0",
    "mode": "fsdax",
    "map": "dev",
    "size": 105694363648,
    "uuid": "4f42ca91-37eb-4dcb-b0de-2f1e4397dbb3",
    "sector_size": 512,
    "align": 2097152,
    "blockdev": "pmem0",
}
DEVDAX: dict[str, Any] = {
    "dev": "namespace0.0",
    "mode": "devdax",
    "map": "mem",
    "size": 107372085248,
    "uuid": "f738d095-b742-4825-a468-82a4cebff79a",
    "chardev": "dax0.0",
    "align": 2097152,
}
FSDAX_SYSFS = "device pfn0.1\ndriver nd_pmem\nsize 107374182400\nstart 0x100000000\ndata 0x164200000\n"
DEVDAX_SYSFS = "device dax0.0\ndriver dax_pmem\nsize 107374182400\nstart 0x100000000\ndata 0x100200000\n"

FRESH = "4 0 namespace0.0\n"
LABELLED = f"5 {100 * size.GIB} namespace0.0 namespace0.1\n"


def guest_that(state: str, entry: dict[str, Any], sysfs: str) -> tuple[FakeGuest, Guest]:
    fake = FakeGuest()
    fake.answers = {
        "max_available_extent": state,
        "create-namespace": json.dumps(entry),
        "ndctl list": sysfs + json.dumps([entry], indent=2),
    }
    return fake, cast(Guest, fake)


def made_by(fake: FakeGuest) -> str:
    return next(text for text in fake.seen if "create-namespace" in text)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (NamespaceSpec(), "fsdax-dev"),
        (NamespaceSpec("fsdax", "mem"), "fsdax-mem"),
        (NamespaceSpec("fsdax", "dev", 4 * size.KIB), "fsdax-4k-dev"),
        (NamespaceSpec("devdax", "mem"), "devdax-2m-mem"),
        (NamespaceSpec("devdax", "dev", size.GIB), "devdax-1g-dev"),
        (NamespaceSpec("raw"), "raw"),
    ],
)
def test_id(spec: NamespaceSpec, name: str) -> None:
    assert spec.id == name


def test_data_offset() -> None:
    """The published case: 410112 of 26214400 pages hold info block and memmap."""
    assert NamespaceSpec().data_offset(100 * size.GIB) == 410112 * 4096
    assert NamespaceSpec(map="mem").data_offset(100 * size.GIB) == 2 * size.MIB
    assert NamespaceSpec(align_bytes=size.GIB).data_offset(100 * size.GIB) == 2 * size.GIB
    assert NamespaceSpec("raw").data_offset(100 * size.GIB) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "sector"}, r"mode cannot be 'sector': it can be fsdax, devdax, raw"),
        ({"map": "disk"}, r"map cannot be 'disk': it can be dev, mem"),
        ({"align_bytes": 3 * size.MIB}, r"alignment cannot be 3 MiB: .* the nearest is 2 MiB"),
        ({"size_bytes": 17 * size.MIB}, r"fsdax-dev cannot be 17 MiB: .* nearest is 16 MiB \(16777216\) or 32 MiB"),
        ({"size_bytes": 0}, r"the nearest is 16 MiB"),
        ({"size_bytes": size.GIB, "align_bytes": size.GIB}, r"fsdax-1g-dev .* at least 2 GiB; the nearest is 2 GiB"),
        ({"size_bytes": 2 * size.GIB + 16 * size.MIB, "align_bytes": size.GIB}, r"2 GiB \(.*\) or 3 GiB"),
    ],
)
def test_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        NamespaceSpec(**values)


def test_fresh_region_is_taken_whole() -> None:
    fake, guest = guest_that(FRESH, FSDAX, FSDAX_SYSFS)
    namespace = create_namespace(guest, REGION, NamespaceSpec())
    assert made_by(fake) == "ndctl create-namespace -m fsdax -M dev -a 2097152 -f -e namespace0.0"
    assert namespace == Namespace(
        spec=NamespaceSpec(),
        name="namespace0.0",
        mode="fsdax",
        map="dev",
        align_bytes=2 * size.MIB,
        size_bytes=100 * size.GIB,
        usable_bytes=25804288 * 4096,
        region=REGION,
        start=0x100000000,
        data_start=0x164200000,
        device="pfn0.1",
        driver="nd_pmem",
        node="pmem0",
    )
    assert namespace.id == "fsdax-dev"


def test_labelled_region() -> None:
    fake, guest = guest_that(LABELLED, DEVDAX, DEVDAX_SYSFS)
    namespace = create_namespace(guest, REGION, NamespaceSpec("devdax", "mem"))
    assert made_by(fake) == "ndctl create-namespace -m devdax -M mem -a 2097152 -r region0"
    assert (namespace.device, namespace.driver, namespace.node) == ("dax0.0", "dax_pmem", "dax0.0")
    assert not any("init-labels" in text for text in fake.seen)


def test_part_of_a_fresh_region_needs_labels() -> None:
    fake, guest = guest_that(FRESH, FSDAX, FSDAX_SYSFS)
    create_namespace(guest, REGION, NamespaceSpec(size_bytes=size.GIB))
    assert made_by(fake) == "ndctl create-namespace -m fsdax -M dev -a 2097152 -s 1073741824 -r region0"
    labels = next(index for index, text in enumerate(fake.seen) if "init-labels" in text)
    assert labels < fake.seen.index(made_by(fake))


def test_raw() -> None:
    entry = {"dev": "namespace0.0", "mode": "raw", "size": 107374182400, "sector_size": 512, "blockdev": "pmem0"}
    sysfs = "device namespace0.0\ndriver nd_pmem\nsize 107374182400\nstart 0x100000000\ndata 0x100000000\n"
    fake, guest = guest_that(LABELLED, entry, sysfs)
    namespace = create_namespace(guest, REGION, NamespaceSpec("raw"))
    assert made_by(fake) == "ndctl create-namespace -m raw -r region0"
    assert (namespace.device, namespace.start, namespace.data_start) == ("namespace0.0", 0x100000000, 0x100000000)


def test_another_kind_than_asked_for() -> None:
    _, guest = guest_that(FRESH, {**FSDAX, "map": "mem"}, FSDAX_SYSFS)
    with pytest.raises(KernelFailure, match=r"asked .* \('fsdax', 'dev', 2097152\), but has .*'mem'"):
        create_namespace(guest, REGION, NamespaceSpec())


def test_refused_by_the_kernel() -> None:
    fake, guest = guest_that(FRESH, FSDAX, FSDAX_SYSFS)
    fake.answers["create-namespace"] = (237, "failed to create namespace: No such device or address\n")
    fake.answers["dmesg"] = "nd_pmem pfn1.0: namespace1.0 unable to satisfy requested alignment\n"
    with pytest.raises(KernelFailure, match=r"fsdax-dev could not be made on region0 \(100 GiB\)") as caught:
        create_namespace(guest, REGION, NamespaceSpec())
    assert "No such device" in caught.value.output
    assert "unable to satisfy" in caught.value.output


@pytest.mark.parametrize(
    ("state", "spec", "said"),
    [
        ("5 0 namespace0.0", NamespaceSpec(), r"wants what is free, and nothing of 100 GiB is free in one piece"),
        (f"5 {size.GIB}", NamespaceSpec(size_bytes=2 * size.GIB), r"wants 2 GiB, and 1 GiB of 100 GiB is free"),
        (f"5 {size.GIB}", NamespaceSpec(align_bytes=size.GIB), r"of 1 GiB has no room for data: .* nearest .* 2 GiB"),
        (FRESH, NamespaceSpec(map="mem"), r"needs 1600 MiB for its memmap, more than half of the guest's RAM of 2 GiB"),
    ],
)
def test_no_room(state: str, spec: NamespaceSpec, said: str) -> None:
    fake, guest = guest_that(state, FSDAX, FSDAX_SYSFS)
    with pytest.raises(UsageError, match=said):
        create_namespace(guest, REGION, spec)
    assert not any("create-namespace" in text for text in fake.seen)


def test_name_that_is_none() -> None:
    _, guest = guest_that(FRESH, {**FSDAX, "dev": "namespace0.0; reboot"}, FSDAX_SYSFS)
    with pytest.raises(KernelFailure, match="ndctl names a namespace 'namespace0.0; reboot'"):
        create_namespace(guest, REGION, NamespaceSpec())


def test_driver() -> None:
    fake, guest = guest_that(FRESH, FSDAX, FSDAX_SYSFS)
    namespace = create_namespace(guest, REGION, NamespaceSpec())
    fake.seen.clear()
    unbind(guest, namespace)
    bind(guest, namespace)
    with Driver(guest, namespace).unbound():
        fake.seen.append("body")
    assert fake.seen == [
        "echo pfn0.1 > /sys/bus/nd/drivers/nd_pmem/unbind",
        "echo pfn0.1 > /sys/bus/nd/drivers/nd_pmem/bind",
        "echo pfn0.1 > /sys/bus/nd/drivers/nd_pmem/unbind",
        "body",
        "echo pfn0.1 > /sys/bus/nd/drivers/nd_pmem/bind",
    ]
    fake.answers["test -e"] = (1, "")
    assert not Driver(guest, namespace).bound
    destroy_namespace(guest, namespace)
    assert fake.seen[-1] == "ndctl destroy-namespace -f namespace0.0"


def test_unbound_does_not_bind_in_a_dead_guest() -> None:
    fake, guest = guest_that(FRESH, FSDAX, FSDAX_SYSFS)
    namespace = create_namespace(guest, REGION, NamespaceSpec())
    with pytest.raises(KeyError), Driver(guest, namespace).unbound():
        fake.alive = False
        raise KeyError
    assert fake.seen[-1].endswith("/unbind")


def test_a_namespace_that_came_with_its_labels() -> None:
    fake, guest = guest_that(LABELLED, FSDAX, FSDAX_SYSFS)
    fake.answers = {"wait_probe": "namespace0.0\n", **fake.answers}
    found = find_namespace(guest, REGION, NamespaceSpec())
    assert (found.name, found.device, found.data_start) == ("namespace0.0", "pfn0.1", 0x164200000)
    assert made_by_nobody(fake)
    with pytest.raises(KernelFailure, match=r"asked to have .*'devdax'"):
        find_namespace(guest, REGION, NamespaceSpec("devdax"))


def made_by_nobody(fake: FakeGuest) -> bool:
    return not any("create-namespace" in text for text in fake.seen)


def test_namespaces_bound_at_once_by_a_task_each() -> None:
    fake, guest = guest_that(FRESH, FSDAX, FSDAX_SYSFS)
    one = create_namespace(guest, REGION, NamespaceSpec())
    bind_at_once(guest, [one, replace(one, device="dax0.1", driver="dax_pmem")])
    first, second, wait = fake.seen[-1].splitlines()
    assert first.startswith("echo pfn0.1 > /sys/bus/nd/drivers/nd_pmem/bind & ")
    assert second.startswith("echo dax0.1 > /sys/bus/nd/drivers/dax_pmem/bind & ")
    assert "wait $task || exit 1" in wait
