"""The sealed rig without a VM: what QEMU and the kernel are told, what a console means, and what a guest dies of."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.fake_boot import EMPTY_SHA256, write_bzimage
from tests.test_record import BIND
from vmtests.errors import HostFailure, KernelFailure, UsageError
from vmtests.guest import Machine, process
from vmtests.guest.size import GIB
from vmtests.image import Image
from vmtests.kernel import Kernel
from vmtests.pmem import Namespace, NamespaceSpec, Nvdimm, Prepared, Region
from vmtests.record import BindEntry
from vmtests.run.run import Run
from vmtests.run.sealed import SealedBench
from vmtests.timing import rig, sealed
from vmtests.timing.rebind import Bind

OFFSETS = {"base_pfn": 0, "reserve": 16, "free": 24, "type": 96, "flags": 100, "vmemmap_shift": 104}
MACHINE = Machine("tcg", cpus=1, icount=True)

#: A namespace of 1 GiB: 2 MiB and 16 MiB of it hold the info block and the memmap.
_ARGUMENTS = (
    "start=1048576 nr=262144 pgmap=0xffff888003a5c018 base_pfn=1048576 reserve=2 free=4606 "
    "type=3 flags=1 vmemmap_shift=0"
)
_BOOT = "vmtests: init\n"


def _console(counts: list[int], printed: int = 257536) -> str:
    """Return what a guest prints whose binds take so many instructions."""
    lines = [f"{_BOOT}vmtests: sealed: trace", "# tracer: nop", "#"]
    now = 5_000_000_000

    def line(name: str, text: str) -> None:
        lines.append(f"            init-1       [000] .....    {now}: {name}: {text}")

    for index, count in enumerate(counts):
        if index:
            line("tracing_mark_write", f"unbind {index}")
            now += 6000
            line("tracing_mark_write", f"unbound {index}")
            line("tracing_mark_write", f"bind {index}")
        line("vmtests_mi", f"(memmap_init_zone_device+0x0/0x240) {_ARGUMENTS}")
        now += count
        line("vmtests_mo", "(memremap_pages+0x330/0x580 <- memmap_init_zone_device)")
        now += 211
        if index:
            line("tracing_mark_write", f"bound {index}")
    lines.append("vmtests: sealed: log")
    lines += [f"[    0.7] memmap_init_zone_device initialised {printed} pages in 57ms" for _ in counts]
    return "\r\n".join([*lines, "vmtests: sealed: done", ""])


class Rig:
    """Runs sealed guests whose QEMU is a script that prints what it is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        self.program = folder / "bin" / "qemu-system-x86_64"
        for name in ("config", "guest.cpio"):
            (folder / name).touch()
        write_bzimage(folder / "bzImage")
        self.kernel = Kernel(
            name="base", release="7.3.4", image=folder / "bzImage", vmlinux=None, config=folder / "config",
            config_sha256="", source="", compiler="", patches=(), build_seconds=None, key="",
        )  # fmt: skip

    def count(self, says: str, end: str = "exec sleep 60", rebinds: int = 2) -> tuple[Bind, ...]:
        (self._folder / "says").write_text(says)
        self.program.write_text(
            "#!/bin/sh\nfor word; do case $word in file,path=*) path=${word#file,path=} ;; esac; done\n"
            f'path=${{path%%,*}}\ncat "{self._folder}/says" > "$path"\n{end}\n'
        )
        self.program.chmod(0o755)
        prepared = Prepared("fsdax-dev", "fsdax", "dev", 2 << 20, GIB, GIB, 131072, {4096: b"info", GIB: b"label"})
        done = sealed.count(
            self.kernel,
            Image(self._folder / "guest.cpio", EMPTY_SHA256, "", {}),
            MACHINE,
            prepared,
            rebinds=rebinds,
            boot=3,
            pgmap_offsets=OFFSETS,
            evidence=self._folder / "evidence",
        )
        return done.binds


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="vmt-") as runtime:
        found = Rig(tmp_path)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        monkeypatch.setattr(process, "STEP_SECONDS", 0.5)
        yield found
        left = [path for path in (tmp_path / "cache/vmtests/guests").glob("*") if path.is_dir()]
        assert not left


def test_samples_come_from_the_console(guests: Rig) -> None:
    """The first bind happens beside the boot's other work, and is no sample."""
    binds = guests.count(_console([14_300_000, 14_200_000, 14_200_001]))
    entries = [bind.entry for bind in binds]
    assert [entry.duration_ns for entry in entries] == [14_200_000, 14_200_001]
    assert [entry.index for entry in entries] == [1, 2]
    assert {(entry.pages, entry.boot, entry.clock, entry.rig) for entry in entries} == {(257536, 3, "icount", "sealed")}
    assert (entries[0].bind_write_ns, entries[0].unbind_write_ns) == (14_200_211, 6000)
    assert binds[1].truth.pages == 257536
    assert binds[1].truth.first_pfn == 1048576 + 4608


def test_the_guest_is_left_alone(guests: Rig, tmp_path: Path) -> None:
    """No way in: neither a NIC nor a monitor nor a port, and no device that draws from the host."""
    guests.count(_console([5, 5, 5]))
    argv = (tmp_path / "evidence" / "argv.sh").read_text()
    for word in ("-netdev", "virtio", "-mon", "rng", "socket", "-monitor"):
        assert word not in argv
    assert "-icount shift=0,sleep=off" in argv
    assert "-seed 1" in argv
    assert "-device nvdimm,id=nvdimm0" in argv
    assert f"{sealed.REBINDS}=2" in argv


def test_the_kernel_arms_the_probes() -> None:
    words = sealed.command_line(OFFSETS, 30)
    assert "trace_clock=x86-tsc" in words
    (probe,) = [word for word in words if word.startswith("kprobe_event=")]
    assert " " not in probe
    assert probe.startswith("kprobe_event=p:vmtests_mi,memmap_init_zone_device,start=%si:u64,nr=%dx:u64,")
    assert probe.endswith(";r:vmtests_mo,memmap_init_zone_device")


@pytest.mark.parametrize(
    ("says", "end", "failure", "message"),
    [
        (_BOOT + "vmtests: sealed: failed: bind 2\n", "exec sleep 60", KernelFailure, "failed: bind 2"),
        (_BOOT + "[    1.732568] BUG: kernel NULL pointer\n", "exec sleep 60", KernelFailure, "NULL pointer"),
        (_BOOT, "exit 0", KernelFailure, "reset itself"),
        (_BOOT, "exit 1", HostFailure, "QEMU ended with status 1"),
        (_BOOT + "vmtests: sealed: trace\nvmtests: sealed: log\nvmtests: sealed: done\n", "exec sleep 60", HostFailure,
         "not let itself be probed while it boots"),
        (_console([5, 5]), "exec sleep 60", KernelFailure, "initialised the memmap 2 times: samples are missing"),
        (_console([5, 5, 5], printed=1), "exec sleep 60", KernelFailure, "says it initialised 1 pages"),
    ],
)  # fmt: skip
def test_what_a_sealed_guest_dies_of(guests: Rig, says: str, end: str, failure: type[Exception], message: str) -> None:
    with pytest.raises(failure, match=message):
        guests.count(says, end)


def test_a_guest_that_says_nothing_ends_in_time(guests: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_SECONDS", 0.01)
    monkeypatch.setattr(sealed, "_LEAST_SECONDS", 0.01)
    with pytest.raises(KernelFailure, match="not done within"):
        guests.count(_BOOT)


def test_only_a_counting_machine_is_sealed(guests: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_sealed.MACHINE", Machine("tcg", cpus=1))
    with pytest.raises(UsageError, match="icount"):
        guests.count(_BOOT)


def test_a_prepared_namespace_travels(tmp_path: Path) -> None:
    """What ndctl wrote on one NVDIMM stands at the same places of another, and nothing else does."""
    source = tmp_path / "source"
    nvdimm = Nvdimm("nvdimm0", source, 64 << 20)
    with source.open("wb") as file:
        file.truncate(Nvdimm.backing_bytes(64 << 20))
        for offset, data in ((4096, b"info"), (3 << 20, b"memmap"), (64 << 20, b"label")):
            file.seek(offset)
            file.write(data)
    space = Namespace(
        spec=NamespaceSpec(), name="namespace0.0", mode="fsdax", map="dev", align_bytes=2 << 20, size_bytes=64 << 20,
        usable_bytes=60 << 20, region=Region("region0", 4 * GIB, 64 << 20, nvdimm), start=4 * GIB,
        data_start=4 * GIB + (4 << 20), device="pfn0.0", driver="nd_pmem", node="pmem0",
    )  # fmt: skip
    Prepared.take(space).save(tmp_path)
    prepared = Prepared.load(tmp_path)
    assert prepared == Prepared.take(space)
    with prepared.write(tmp_path / "copy") as copy:
        content = copy.path.read_bytes()
        assert len(content) == (64 << 20) + 131072
        assert content[4096:4100] == b"info"
        assert content[64 << 20 :].startswith(b"label")
        assert b"memmap" not in content
        assert copy.data_bytes < 1 << 20
    assert not (tmp_path / "copy").exists()


def _boots(*counts: list[int], **fields: object) -> list[BindEntry]:
    return [
        dataclasses.replace(BIND, boot=boot, index=index, duration_ns=count, clock="icount", **fields)  # type: ignore[arg-type]
        for boot, boot_counts in enumerate(counts)
        for index, count in enumerate(boot_counts)
    ]


MANY = 1_426_000_000


@pytest.mark.parametrize(
    ("one", "other", "kind", "trouble"),
    [
        ([9, MANY, MANY], [9, MANY, MANY], "sealed", None),
        ([9, MANY, MANY], [9, MANY, MANY + 1], "sealed", "bind 2 took 1,426,000,000 .* allows nothing"),
        ([9, MANY, MANY], [8, MANY, MANY], "sealed", "bind 0 took 9 instructions in boot 0 and 8 in boot 1"),
        ([9, MANY, MANY], [8, MANY, MANY], "ssh", None),
        ([9, MANY, MANY], [9, MANY + 70_000, MANY + 70_000], "ssh", None),
        ([9, MANY, MANY], [9, MANY + 80_000, MANY + 80_000], "ssh", "56.1 parts per million apart, where the rig ssh"),
        ([9, MANY, MANY, MANY], [9, 2 * MANY, MANY, MANY], "ssh", None),
    ],
)
def test_a_broken_rig(one: list[int], other: list[int], kind: str, trouble: str | None) -> None:
    """ssh: the medians of the rebinds agree within 50 parts per million. sealed: every bind is the same."""
    found = rig.check(_boots(one, other, rig=kind))
    assert [broken.kernel for broken in found] == (["base"] if trouble else [])
    if trouble:
        with pytest.raises(HostFailure, match=trouble):
            raise HostFailure(str(found[0]))


def test_times_say_nothing_of_the_rig() -> None:
    timed = [dataclasses.replace(bind, clock="wall") for bind in _boots([9, 5], [9, 50])]
    assert rig.check(timed) == ()


def test_a_kernel_with_modules_is_refused() -> None:
    """Before anything starts."""
    kernel = SimpleNamespace(name="stock", modules=(Path("nd_pmem.ko"),))
    run = SimpleNamespace(kernel=lambda _: kernel)
    with pytest.raises(UsageError, match="--rig sealed with kernel stock: it needs modules.* Use --rig ssh"):
        SealedBench(cast(Run, run), "stock", NamespaceSpec(), 0).rebind(1)
