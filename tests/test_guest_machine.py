"""The machine's arguments, its kernel's command line, and the sizes that it refuses."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest

from vmtests.errors import UsageError
from vmtests.guest import Machine, size
from vmtests.guest.machine import Wiring, option
from vmtests.guest.process import pasteable

WIRING = Wiring(
    name="1234",
    kernel=Path("/k/bzImage"),
    initrd=Path("/i/guest,new.cpio"),
    append="console=ttyS0",
    ram=Path("/w/ram"),
    drgn=Path("/s/drgn"),
    console="socket,fd=5",
    monitor="socket,fd=6",
    keys="socket,fd=7",
)


def values(argv: list[str], name: str) -> list[str]:
    """Return the values of all options called `name`."""
    return [value for word, value in itertools.pairwise(argv) if word == name]


def test_argv() -> None:
    argv = Machine("tcg").argv(WIRING)
    assert values(argv, "-machine") == ["q35,nvdimm=on,memory-backend=ram"]
    assert values(argv, "-cpu") == ["Icelake-Server"]
    assert values(argv, "-m") == ["size=2048M,slots=4,maxmem=524288M"]
    assert values(argv, "-object") == ["memory-backend-file,id=ram,size=2147483648,mem-path=/w/ram,share=on"]
    assert values(argv, "-accel") == ["tcg"]
    assert values(argv, "-initrd") == ["/i/guest,,new.cpio"]
    assert values(argv, "-chardev") == [
        "socket,fd=5,id=console",
        "socket,fd=6,id=monitor",
        "socket,path=/s/drgn,server=on,wait=off,id=drgn",
        "socket,fd=7,id=keys",
    ]
    assert values(argv, "-netdev") == ["user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"]
    assert {"vmcoreinfo", "pvpanic"} <= set(values(argv, "-device"))
    assert "-icount" not in argv


def test_icount_fixes_the_clock() -> None:
    argv = Machine("tcg", cpus=1, icount=True).argv(WIRING)
    assert values(argv, "-icount") == ["shift=0,sleep=off"]
    assert values(argv, "-rtc") == ["base=2026-01-01,clock=vm"]
    assert values(argv, "-smp") == ["1"]


def test_nodes() -> None:
    argv = Machine("kvm", nodes=2).argv(WIRING)
    assert values(argv, "-machine") == ["q35,nvdimm=on"]
    assert values(argv, "-object") == [
        "memory-backend-file,id=ram,size=1073741824,mem-path=/w/ram,share=on",
        "memory-backend-file,id=ram1,size=1073741824,mem-path=/w/ram1,share=on",
    ]
    assert values(argv, "-numa") == ["node,nodeid=0,cpus=0-0,memdev=ram", "node,nodeid=1,cpus=1-1,memdev=ram1"]


def test_one_cpu_for_two_nodes() -> None:
    assert values(Machine("tcg", cpus=1, nodes=2).argv(WIRING), "-numa") == [
        "node,nodeid=0,cpus=0-0,memdev=ram",
        "node,nodeid=1,memdev=ram1",
    ]


def test_a_dimm_from_the_start() -> None:
    machine = Machine("kvm", dimm_bytes=64 * size.MIB)
    argv = machine.argv(WIRING)
    assert values(argv, "-object")[1:] == [
        "memory-backend-file,id=dimm,size=67108864,mem-path=/w/dimm,share=on",
    ]
    assert "pc-dimm,id=dimm0,memdev=dimm" in values(argv, "-device")
    assert machine.ram_files(WIRING.ram) == ((Path("/w/ram"), 2 * size.GIB), (Path("/w/dimm"), 64 * size.MIB))
    assert not values(argv, "-numa")


def test_by_hand_it_pastes() -> None:
    argv = Machine("tcg").argv(WIRING.by_hand())
    script = pasteable(argv)
    assert shlex.split(script.partition("exec ")[2].replace("\\\n", "")) == argv
    assert "fd=" not in script
    assert "    -kernel /k/bzImage \\\n" in script


def test_option_doubles_commas() -> None:
    assert option("nvdimm", {"id": "a", "share": True, "path": Path("/a,b")}) == "nvdimm,id=a,share=on,path=/a,,b"


def test_command_line() -> None:
    real, emulated = Machine("kvm").command_line(["extra"]).split(), Machine("tcg").command_line().split()
    assert {"console=ttyS0", "nokaslr", "oops=panic", "panic=-1"} <= set(real)
    assert real[-1] == "extra"
    assert "no_timer_check" in emulated
    assert "no_timer_check" not in real


def test_patience_grows_with_accelerator_and_config() -> None:
    tcg = Machine("tcg").patience()
    assert Machine("kvm").patience({}) == 1 < tcg < Machine("tcg", cpus=1, icount=True).patience()
    assert Machine("tcg").patience({"CONFIG_KASAN": "y"}) > tcg
    assert Machine("tcg").patience({"CONFIG_KASAN": "n"}) == tcg


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Machine("hvf"), r"'hvf' is unknown: it can be kvm or tcg"),
        (lambda: Machine("kvm", cpus=1, icount=True), r"needs the accelerator tcg and 1 CPU, not kvm and 1"),
        (lambda: Machine("tcg", icount=True), r"needs the accelerator tcg and 1 CPU, not tcg and 2"),
        (lambda: Machine("tcg", cpus=0), r"cpus cannot be 0: .* the nearest is 1"),
        (lambda: Machine("tcg", memory_bytes=1000 * size.MIB), r"the nearest is 896 MiB \(939524096\) or 1 GiB \("),
        (lambda: Machine("tcg", memory_bytes=1152 * size.MIB, nodes=2), r"the nearest is 1 GiB .* or 1280 MiB"),
        (lambda: Machine("tcg", memory_bytes=1), r"at least 256 MiB; the nearest is 256 MiB"),
        (lambda: Machine("tcg", max_memory_bytes=2 * size.GIB), r"at least 3 GiB; the nearest is 3 GiB"),
    ],
)
def test_refused(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(UsageError, match=said):
        make()


def test_nearest_sizes() -> None:
    size.check("it", 32, multiple=16)
    with pytest.raises(UsageError, match=r"it cannot be 33 bytes: .* nearest is 32 bytes \(32\) or 48 bytes \(48\)"):
        size.check("it", 33, multiple=16)
    with pytest.raises(UsageError, match=r"nearest is 64 bytes"):
        size.check("it", 90, multiple=16, most=64)
    assert [size.text(value) for value in (0, 4097, size.GIB, 1537 * size.MIB)] == [
        "0 bytes",
        "4097 bytes",
        "1 GiB",
        "1537 MiB",
    ]
