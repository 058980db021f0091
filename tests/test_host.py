"""What the host can run: found by asking it, proven by a kernel that reaches its init, kept."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fake_programs import FakePrograms, programs
from vmtests import host
from vmtests.errors import HostFailure, UsageError
from vmtests.host import facts, kvm, qemu

__all__ = ["programs"]

VERSION = 'case $* in *--version*) echo "QEMU emulator version 7.2.22 (Debian 1:7.2)"; exit ;; esac\n'


def test_qemu_is_found_with_its_version(programs: FakePrograms) -> None:
    path = programs.add("qemu-system-x86_64", VERSION)
    assert qemu.find() == qemu.Qemu(path, "7.2.22")
    assert qemu.find().tried


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("QEMU emulator version 6.2.0 (Debian)", r"QEMU 6\.2\.0 .* too old.* 7\.0 .* 7\.2.*qemu-system-x86"),
        ("command not understood", "does not say which version"),
    ],
)
def test_qemu_that_cannot_be_used(programs: FakePrograms, said: str, message: str) -> None:
    programs.add("qemu-system-x86_64", f"echo '{said}'")
    with pytest.raises(HostFailure, match=message):
        qemu.find()


def test_no_qemu(programs: FakePrograms) -> None:
    assert not programs.calls("qemu-system-x86_64")
    with pytest.raises(HostFailure, match=r"qemu-system-x86_64 is not installed.*qemu-system-x86$"):
        qemu.find()


def test_an_older_qemu_than_tried_is_taken_and_told(programs: FakePrograms) -> None:
    programs.add("qemu-system-x86_64", 'echo "QEMU emulator version 7.0.0"')
    assert not qemu.find().tried


def test_missing_features_are_read_from_the_warnings_once() -> None:
    stderr = """\
qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID.01H:ECX.pcid [bit 17]
qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID.0DH:EAX.xsavec [bit 1]
qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX.sse4.1 [bit 19]
qemu-system-x86_64: warning: host doesn't support requested feature: CPUID.01H:ECX [bit 5]
qemu-system-x86_64: warning: host doesn't support requested feature: MSR(10AH).taa-no [bit 8]
qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID[eax=07h,ecx=00h].EBX.hle [bit 4]
qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID.01H:ECX.pcid [bit 17]
qemu-system-x86_64: -device nonsense: 'nonsense' is not a valid device model name
"""
    found = host.parse_missing_features(stderr)
    assert found == ("pcid", "xsavec", "sse4.1", "CPUID.01H:ECX[5]", "taa-no", "hle")
    assert host.parse_missing_features("") == ()


def test_the_host_is_described_in_json(programs: FakePrograms) -> None:
    programs.add("qemu-system-x86_64", VERSION)
    found = host.probe()
    assert json.loads(json.dumps(found.to_json()))["qemu_version"] == "7.2.22"
    assert 0 < found.memory_available_bytes <= found.memory_bytes
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.disk_free_bytes > 0
    assert found.cache.is_dir()


def test_too_little_room_is_told(programs: FakePrograms) -> None:
    programs.add("qemu-system-x86_64", VERSION)
    found = host.probe()
    found.check_room(memory_bytes=1, disk_bytes=1)
    with pytest.raises(HostFailure, match=r"1024\.0 GiB of memory are needed and .* available"):
        found.check_room(memory_bytes=1 << 40)
    with pytest.raises(HostFailure, match=r"free in .*XDG_CACHE_HOME"):
        found.check_room(disk_bytes=1 << 60)


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_sparse_files_are_tried(tmp_path: Path) -> None:
    assert facts.keeps_sparse(tmp_path)
    with _file_size_limit(1 << 30):
        assert not facts.keeps_sparse(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_fills_holes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        full = SimpleNamespace(st_blocks=(50 << 30) // 512, st_mode=0, st_blksize=4096, st_size=0)
        patch.setattr(os, "fstat", lambda _: full)
        sparse = facts.keeps_sparse(tmp_path)
    assert not sparse


def test_the_device_alone_can_say_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = kvm.device_trouble(tmp_path / "kvm")
    assert absent is not None
    assert "there is no" in absent
    (tmp_path / "kvm").touch()
    assert kvm.device_trouble(tmp_path / "kvm") is None

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    refused = kvm.device_trouble(tmp_path / "kvm")
    assert refused is not None
    assert "group kvm" in refused


@pytest.fixture
def kernel(programs: FakePrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel's file, on a host whose /dev/kvm opens."""
    monkeypatch.setattr(kvm, "device_trouble", lambda: None)
    assert programs.folder.is_dir()
    path = tmp_path / "bzImage"
    path.write_bytes(b"a kernel")
    return path


def _runs(programs: FakePrograms) -> list[str]:
    return [call for call in programs.calls("qemu-system-x86_64") if "-kernel" in call]


def _fake_qemu(programs: FakePrograms, *, kvm: str, tcg: str) -> None:
    programs.add("qemu-system-x86_64", VERSION + f'case $* in *"-accel kvm"*) {kvm} ;; *) {tcg} ;; esac')


REACHES = "echo '[    0.7] Run /init'; echo vmtests: init; exec sleep 100"
HANGS = "echo '[    0.0] Linux version'; exec sleep 100"
BREAKS = "echo 'KVM internal error. Suberror: 1'; exec sleep 100"
ABORTS = 'echo "error: failed to set MSR 0x10a"; kill -ABRT $$'


def test_kvm_is_proven_once_by_a_kernel_that_reaches_its_init(programs: FakePrograms, kernel: Path) -> None:
    _fake_qemu(programs, kvm=REACHES, tcg=REACHES)
    chosen = host.accelerator(kernel)
    assert (chosen.name, chosen.proven) == ("kvm", True)
    assert "reached its init" in chosen.reason
    assert host.accelerator(kernel, wanted="kvm") == chosen
    assert host.accelerator(None) == chosen
    assert len(_runs(programs)) == 1


@pytest.mark.parametrize(
    ("how", "why"), [(BREAKS, "KVM internal error"), (ABORTS, "0x10a"), (HANGS, "not reach its init within 0 s")]
)
def test_kvm_is_refused_for_every_kernel_when_tcg_boots_this_one(
    programs: FakePrograms, kernel: Path, how: str, why: str
) -> None:
    _fake_qemu(programs, kvm=how, tcg=REACHES)
    chosen = host.accelerator(kernel, seconds=0.4)
    assert (chosen.name, chosen.proven) == ("tcg", True)
    assert why in chosen.reason
    runs = len(_runs(programs))
    kernel.write_bytes(b"another kernel")
    assert host.accelerator(kernel) == chosen
    with pytest.raises(HostFailure, match="does not work here"):
        host.accelerator(kernel, wanted="kvm")
    assert len(_runs(programs)) == runs


def test_a_kernel_that_boots_nowhere_proves_nothing_for_the_next(
    programs: FakePrograms, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "_CONTROL_SECONDS", 0.3)
    _fake_qemu(programs, kvm=HANGS, tcg=HANGS)
    assert host.accelerator(kernel, seconds=0.3).name == "tcg"
    runs = len(_runs(programs))
    assert host.accelerator(kernel).name == "tcg"
    assert len(_runs(programs)) == runs
    _fake_qemu(programs, kvm=REACHES, tcg=REACHES)
    kernel.write_bytes(b"a better kernel")
    assert host.accelerator(kernel).name == "kvm"


def test_another_qemu_is_proven_anew(programs: FakePrograms, kernel: Path) -> None:
    _fake_qemu(programs, kvm=BREAKS, tcg=REACHES)
    assert host.accelerator(kernel).name == "tcg"
    newer = VERSION.replace("7.2.22", "10.0.2")
    programs.add("qemu-system-x86_64", newer + REACHES)
    assert host.accelerator(kernel).name == "kvm"


def test_a_proof_that_cannot_be_read_is_made_anew(programs: FakePrograms, kernel: Path) -> None:
    _fake_qemu(programs, kvm=REACHES, tcg=REACHES)
    host.accelerator(kernel)
    for kept in (kernel.parent / "cache/vmtests/accelerator").iterdir():
        kept.write_text("{")
    assert host.accelerator(kernel).name == "kvm"
    assert len(_runs(programs)) == 2


def test_no_qemu_is_left_after_the_proof(programs: FakePrograms, kernel: Path) -> None:
    _fake_qemu(programs, kvm=f"echo $$ >{programs.folder}/pid; " + REACHES, tcg="exit")
    host.accelerator(kernel)
    assert not Path("/proc", (programs.folder / "pid").read_text().strip()).exists()


def test_without_a_kernel_kvm_is_not_proven(
    programs: FakePrograms, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_qemu(programs, kvm=REACHES, tcg=REACHES)
    monkeypatch.setattr(kvm, "kernel_at_hand", lambda: None)
    chosen = host.accelerator()
    assert (chosen.name, chosen.proven) == ("tcg", False)
    assert "KVM: not proven" in chosen.reason
    with pytest.raises(HostFailure, match="not proven"):
        host.accelerator(wanted="kvm")
    monkeypatch.setattr(kvm, "kernel_at_hand", lambda: kernel)
    assert host.accelerator().name == "kvm"


def test_the_newest_kernel_in_the_cache_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for age, name in enumerate(("newest", "older")):
        path = tmp_path / "vmtests/kernels" / name / "bzImage"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    found = kvm.kernel_at_hand()
    assert found is not None
    assert found.parent.name == "newest"


def test_what_the_user_asks_for(programs: FakePrograms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "device_trouble", lambda: "there is no /dev/kvm")
    assert host.accelerator(wanted="tcg") == host.Accelerator("tcg", "as asked for", True)
    assert host.accelerator().reason == "there is no /dev/kvm"
    with pytest.raises(HostFailure, match="there is no /dev/kvm"):
        host.accelerator(wanted="kvm")
    with pytest.raises(UsageError, match="'xen'"):
        host.accelerator(wanted="xen")
    assert not _runs(programs)


def test_the_smallest_init_says_its_line_and_stays(tmp_path: Path) -> None:
    archive = kvm.smallest_initramfs()
    start = archive.index(b"\x7fELF")
    size = int.from_bytes(archive[start + 96 : start + 104], "little")  # p_filesz
    init = tmp_path / "init"
    init.write_bytes(archive[start : start + size])
    init.chmod(0o755)
    with subprocess.Popen([init], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"vmtests: init\n"
            assert process.poll() is None
        finally:
            process.kill()
