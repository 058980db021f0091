"""Which accelerator runs the guests: KVM where it is proven to boot a kernel, QEMU's own translator (TCG) elsewhere.

A /dev/kvm that opens, answers every ioctl and creates a virtual machine proves nothing: a host that is a guest itself
may have a KVM that cannot run an ordinary kernel. The proof is a kernel that reaches its init. It is made once for a
host and a QEMU, and kept in the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import struct
import subprocess
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from vmtests import cache, files
from vmtests.command import tied
from vmtests.cpio import Tree
from vmtests.errors import HostFailure, UsageError
from vmtests.host import facts
from vmtests.host.qemu import CPU_MODEL, Qemu, find, parse_missing_features

#: What the init of our images says first.
INIT_LINE = "vmtests: init"

_DEVICE = Path("/dev/kvm")

#: After this the virtual machine stands still, and QEMU does not end.
_BROKEN = "KVM internal error"

#: How long a kernel that has failed under KVM may take to its init under TCG.
_CONTROL_SECONDS = 60.0


@dataclass(frozen=True)
class Accelerator:
    """The accelerator to use, and why."""

    # "kvm" or "tcg".
    name: str
    reason: str
    # Whether the reason is a fact; if not, a kernel is still to be booted.
    proven: bool


@dataclass(frozen=True)
class Proof:
    """What came of booting a kernel under KVM."""

    works: bool
    reason: str
    # The end of what QEMU and the kernel printed.
    output: str
    # The kernel that the failure may be the fault of; None when it is KVM's.
    kernel_sha256: str | None = None


def accelerator(
    kernel_image: Path | None = None,
    initrd: Path | None = None,
    wanted: str = "auto",
    *,
    cpu_model: str = CPU_MODEL,
    seconds: float = 20.0,
) -> Accelerator:
    """Decide which accelerator runs the guests.

    Args:
        kernel_image: a bzImage to prove KVM with; None is one that is at hand.
        initrd: an initramfs whose init prints "vmtests: init"; None is one that does nothing else.
        wanted: "auto", "kvm" or "tcg".
        cpu_model: the guests' CPU model.
        seconds: how long the kernel may take to its init.

    Raises:
        HostFailure: `wanted` is "kvm", and KVM does not work, or cannot be proven to.
    """
    if wanted not in ("auto", "kvm", "tcg"):
        raise UsageError(f"accelerator {wanted!r} is unknown: it can be auto, kvm or tcg")
    if wanted == "tcg":
        return Accelerator("tcg", "as asked for", proven=True)
    trouble = device_trouble()
    if trouble is not None:
        if wanted == "kvm":
            raise HostFailure(f"KVM cannot be used: {trouble}")
        return Accelerator("tcg", trouble, proven=True)
    proof = _proof(find(), kernel_image or kernel_at_hand(), initrd, cpu_model, seconds)
    if proof is None:
        advice = "build or install a kernel, such as with `vmtests kernel build stock`"
        if wanted == "kvm":
            raise HostFailure(f"KVM is not proven, and there is no kernel to prove it with: {advice}")
        return Accelerator("tcg", "KVM: not proven, no kernel at hand", proven=False)
    if proof.works:
        return Accelerator("kvm", proof.reason, proven=True)
    if wanted == "kvm":
        raise HostFailure(f"KVM does not work here: {proof.reason}; use --accel tcg, or auto", output=proof.output)
    return Accelerator("tcg", f"KVM does not work here: {proof.reason}", proven=True)


def device_trouble(device: Path = _DEVICE) -> str | None:
    """Return why the device cannot even be opened, and what to do; None if it can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {device} (no virtualization in the processor or the firmware, or none passed on to us)"
    except PermissionError:
        return f"{device} may not be opened by this user: add it to the group kvm, then log in again"
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    return None


def works(cpu_model: str = CPU_MODEL) -> bool | None:
    """Return whether KVM works here as far as that is known without booting anything; None when it is not known."""
    if device_trouble() is not None:
        return False
    try:
        known = _read(cache.root() / "accelerator" / f"{_host_key(find(), cpu_model)}.json")
    except HostFailure:  # no QEMU, as the run will say
        return None
    return None if known is None else known.works


def kernel_at_hand() -> Path | None:
    """Return a kernel to prove KVM with: the newest in the cache, else the host's own."""
    built = sorted((cache.root() / "kernels").glob("*/bzImage"), key=lambda path: path.stat().st_mtime)
    own = Path("/boot", f"vmlinuz-{platform.release()}")
    return next((path for path in (*reversed(built), own) if os.access(path, os.R_OK)), None)


def _proof(qemu: Qemu, kernel_image: Path | None, initrd: Path | None, cpu_model: str, seconds: float) -> Proof | None:
    """Return the proof in the cache or a new one; None if there is neither one nor a kernel for one."""
    kept = cache.root() / "accelerator" / f"{_host_key(qemu, cpu_model)}.json"
    known = _read(kept)
    if kernel_image is None:
        return known
    if known is not None and known.kernel_sha256 in (None, _sha256(kernel_image)):
        return known
    with tempfile.TemporaryDirectory() as folder:
        if initrd is None:
            initrd = Path(folder, "initrd")
            initrd.write_bytes(smallest_initramfs())
        proof = prove(qemu, kernel_image, initrd, cpu_model=cpu_model, seconds=seconds)
    kept.parent.mkdir(exist_ok=True)
    files.replace(kept, json.dumps(dataclasses.asdict(proof), indent=1))
    return proof


def _read(kept: Path) -> Proof | None:
    try:
        return Proof(**json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):  # none yet, or another version's
        return None


def _host_key(qemu: Qemu, cpu_model: str) -> str:
    """Return a name for what the proof holds for."""
    machine = Path("/etc/machine-id")
    parts = (
        machine.read_text() if machine.exists() else platform.node(),
        facts.cpu(),
        platform.release(),
        str(qemu.path),
        qemu.version,
        cpu_model,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def prove(qemu: Qemu, kernel_image: Path, initrd: Path, *, cpu_model: str, seconds: float) -> Proof:
    """Boot a kernel under KVM and, if it does not reach its init there, under TCG: whose fault is it?"""
    kvm = _boot(qemu, kernel_image, initrd, "kvm", cpu_model, seconds)
    if kvm.reached:
        return Proof(True, f"a kernel {kvm.what}", kvm.output)
    tcg = _boot(qemu, kernel_image, initrd, "tcg", cpu_model, _CONTROL_SECONDS)
    if tcg.reached:
        return Proof(False, f"a kernel {kvm.what}; under TCG it {tcg.what}", kvm.output)
    return Proof(False, f"the kernel {kvm.what}, nor does it under TCG", kvm.output, _sha256(kernel_image))


@dataclass(frozen=True)
class _Boot:
    """How far a kernel came."""

    reached: bool
    # What to say of the kernel, such as "reached its init in 1.3 s".
    what: str
    output: str


def _boot(qemu: Qemu, kernel_image: Path, initrd: Path, accelerator: str, cpu_model: str, seconds: float) -> _Boot:
    """Wait for the kernel's init, KVM's own word that it has failed, QEMU's end, or the deadline."""
    # Not to be left behind, whatever becomes of us.
    argv = tied("KILL", [
        str(qemu.path),
        "-accel", accelerator,
        "-machine", "q35",
        "-cpu", cpu_model,
        "-m", "512M",
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-no-reboot",
        "-serial", "stdio",
        "-kernel", str(kernel_image),
        "-initrd", str(initrd),
        "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1 nokaslr",
    ])  # fmt: skip
    last: deque[str] = deque(maxlen=30)
    start = time.monotonic()
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        alarm = threading.Timer(seconds, process.kill)
        alarm.start()
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                if not parse_missing_features(line):
                    last.append(line)
                if INIT_LINE in line or _BROKEN in line:
                    break
            took = time.monotonic() - start
        finally:
            alarm.cancel()
            process.kill()
    output = "\n".join(last)
    if last and INIT_LINE in last[-1]:
        return _Boot(True, f"reached its init in {took:.1f} s", output)
    if last and _BROKEN in last[-1]:
        return _Boot(False, f"did not reach its init ({last[-1]})", output)
    if took >= seconds:
        return _Boot(False, f"did not reach its init within {seconds:.0f} s", output)
    return _Boot(False, f"did not reach its init (QEMU ended: {last[-1] if last else 'it said nothing'})", output)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def smallest_initramfs() -> bytes:
    """Return an initramfs whose init says that it runs, and waits: 31 bytes of code, for a host without any image."""
    message = INIT_LINE.encode() + b"\n"
    code = (
        b"\xb8\x01\x00\x00\x00"  #       mov  $1, %eax           write(
        b"\xbf\x01\x00\x00\x00"  #       mov  $1, %edi               1,
        b"\x48\x8d\x35\x0e\x00\x00\x00"  # lea 14(%rip), %rsi        message,
        b"\xba" + struct.pack("<I", len(message)) +  # mov $len, %edx    its length)
        b"\x0f\x05"  #                   syscall
        b"\xb8\x22\x00\x00\x00"  #       mov  $34, %eax          pause()
        b"\x0f\x05"  #                   syscall
    )  # fmt: skip
    size = 64 + 56 + len(code) + len(message)
    address = 0x400000
    # Elf64_Ehdr: an executable (2) for x86-64 (62), and its only segment, which may be read and executed (5).
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, address + 120, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, size, size, 0x1000)
    tree = Tree()
    tree.device("dev/console", 5, 1)
    tree.file("init", header + segment + code + message, 0o755)
    return tree.pack()
