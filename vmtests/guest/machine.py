"""The machine that a guest is: frozen values that render to QEMU's arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vmtests.errors import UsageError
from vmtests.guest import size
from vmtests.host.qemu import BINARY

#: The guest's clock under icount, and the same on every run.
RTC = "base=2026-01-01,clock=vm"

#: The virtio-serial port that the keys come through; images/init knows it by this name.
KEYS_PORT = "org.vmtests.keys"

#: How much longer things take than on real hardware: every deadline for the guest is multiplied by it.
PATIENCE = {"kvm": 1.0, "tcg": 4.0}
ICOUNT_PATIENCE = 6.0
#: And by this for each of these in the kernel's config.
DEBUG_PATIENCE = {"CONFIG_KASAN": 3.0, "CONFIG_KMSAN": 4.0, "CONFIG_KCSAN": 3.0, "CONFIG_PROVE_LOCKING": 2.0}


def option(kind: str, properties: Mapping[str, object]) -> str:
    """Return the value of an option like -object or -device: the kind, then `name=value` with commas doubled."""
    words = {
        name: ("on" if value else "off") if isinstance(value, bool) else str(value)
        for name, value in properties.items()
    }
    return ",".join([kind, *(f"{name}={word.replace(',', ',,')}" for name, word in words.items())])


def _monitor(name: str, path: Path) -> list[str]:
    """Return the arguments for a QMP monitor on a socket of its own."""
    backend = option("socket", {"path": path, "server": True, "wait": False, "id": name})
    return ["-chardev", backend, "-mon", f"chardev={name},mode=control"]


@dataclass(frozen=True)
class Wiring:
    """What one guest's machine is connected to.

    `console`, `monitor` and `keys` are QEMU's character back ends, such as `socket,fd=7` or `stdio`. `visitors` is a
    socket of the monitor for those who come after the test. `incoming`: QEMU waits for the state of another one.
    """

    name: str
    kernel: Path
    initrd: Path
    append: str
    ram: Path
    drgn: Path
    console: str
    monitor: str
    keys: str
    visitors: Path | None = None
    incoming: bool = False

    def by_hand(self) -> Wiring:
        """Return the wiring for somebody who starts QEMU in a terminal: the console there, the rest beside it."""
        return replace(
            self,
            ram=Path("ram"),
            drgn=Path("drgn.socket"),
            console="stdio",
            monitor="socket,path=qmp.socket,server=on,wait=off",
            keys="socket,path=keys.socket,server=on,wait=off",
            visitors=None,
            incoming=False,
        )


@dataclass(frozen=True)
class Machine:
    """A q35 machine that takes NVDIMMs.

    Attributes:
        accelerator: "kvm" or "tcg".
        cpu_model: QEMU's name of it, with features after a comma if need be.
        cpus: virtual CPUs; 1 under icount.
        memory_bytes: RAM, a multiple of 128 MiB (a section of SPARSEMEM on x86-64).
        slots, max_memory_bytes: how many DIMMs can be plugged, and up to which size with the RAM.
        icount: one instruction is one nanosecond of the guest's time.
        nodes: NUMA nodes, each with its share of the RAM, as a node without memory is none to Linux; and with its share
            of the CPUs, if there are enough, else node 0 has them all.
        dimm_bytes: a DIMM that is plugged from the start, in front of where NVDIMMs go, unless 0. To Linux it is boot
            memory only if its command line says so.
    """

    accelerator: str
    cpu_model: str = "Icelake-Server"
    cpus: int = 2
    memory_bytes: int = 2 * size.GIB
    slots: int = 4
    max_memory_bytes: int = 512 * size.GIB
    icount: bool = False
    nodes: int = 1
    dimm_bytes: int = 0

    def __post_init__(self) -> None:
        if self.accelerator not in PATIENCE:
            raise UsageError(f"accelerator {self.accelerator!r} is unknown: it can be {' or '.join(PATIENCE)}")
        if self.icount and (self.accelerator != "tcg" or self.cpus != 1):
            raise UsageError(
                f"the clock icount needs the accelerator tcg and 1 CPU, not {self.accelerator} and {self.cpus}"
            )
        for what, value, least, most in (
            ("cpus", self.cpus, 1, 64),
            ("slots", self.slots, 0, 256),  # ACPI_MAX_RAM_SLOTS in QEMU
            ("nodes", self.nodes, 1, 8),
        ):
            if not least <= value <= most:
                raise UsageError(
                    f"{what} cannot be {value}: it must be from {least} to {most}; "
                    f"the nearest is {min(max(value, least), most)}"
                )
        section = 128 * size.MIB * self.nodes
        size.check("the guest's memory", self.memory_bytes, multiple=section, least=max(256 * size.MIB, section))
        size.check(
            "the guest's largest memory (maxmem)",
            self.max_memory_bytes,
            multiple=size.GIB,
            least=self.memory_bytes // size.GIB * size.GIB + size.GIB,
        )

    def patience(self, config: Mapping[str, str] | None = None) -> float:
        """Return what deadlines are to be multiplied by, for a kernel with this config."""
        factor = ICOUNT_PATIENCE if self.icount else PATIENCE[self.accelerator]
        for symbol, slower in DEBUG_PATIENCE.items():
            if config is not None and config.get(symbol) == "y":
                factor *= slower
        return factor

    def command_line(self, extra: Sequence[str] = ()) -> str:
        """Return the kernel's command line."""
        words = [
            "console=ttyS0",
            # What goes wrong before the serial driver is there, the decompressor's errors too, shall be seen.
            "earlyprintk=ttyS0",
            # The console's patterns know the kernel's messages by their time.
            "printk.time=1",
            # Everything down to info; pr_debug() of dynamic debug stays in the log buffer, out of the timed function.
            "loglevel=7",
            "log_buf_len=1M",
            # memmaps of two kernels can only be compared when their pointers can.
            "nokaslr",
            "oops=panic",
            # Reset at once: the machine turns it into a stop that leaves the dead guest to be dumped.
            "panic=-1",
            "softlockup_panic=1",
            "hung_task_panic=1",
            "sysctl.kernel.panic_on_rcu_stall=1",
            # What makes a hanging guest speak: the host injects an NMI.
            "unknown_nmi_panic",
        ]
        if self.accelerator == "tcg":
            # A busy host delays the emulated timer beyond what the boot's check of it allows (KVM guests skip it too).
            words.append("no_timer_check")
            # For the same reason the watchdogs get more time.
            words += ["watchdog_thresh=30", "rcupdate.rcu_cpu_stall_timeout=60"]
        if self.icount:
            # An idle guest's clock jumps from timer to timer: 120 s pass while it waits for the host's next packet.
            words.append("sysctl.kernel.hung_task_timeout_secs=0")
        return " ".join([*words, *extra])

    def argv(self, wiring: Wiring) -> list[str]:
        """Return QEMU's arguments, its name first."""
        # fmt: off
        return [
            BINARY,
            "-name", f"vmtests-{wiring.name}",
            # Only what is named here: neither the host's configuration nor QEMU's idea of a PC.
            "-no-user-config",
            "-nodefaults",
            "-display", "none",
            "-machine", "q35,nvdimm=on" + (",memory-backend=ram" if self.nodes == 1 else ""),
            *self.accelerator_argv(),
            "-cpu", self.cpu_model,
            "-smp", str(self.cpus),
            "-m", f"size={self.memory_bytes // size.MIB}M,slots={self.slots},"
                  f"maxmem={self.max_memory_bytes // size.MIB}M",
            *self._memory(wiring.ram),
            # A guest that resets or powers itself off stops, with its memory as it was. A panicking one is left to
            # flush its console before it resets: stopped at pvpanic's write, its last lines might be lost.
            "-action", "reboot=shutdown,shutdown=pause,panic=none",
            "-kernel", os.fspath(wiring.kernel).replace(",", ",,"),
            "-initrd", os.fspath(wiring.initrd).replace(",", ",,"),
            "-append", wiring.append,
            # Tells the host where the kernel's VMCOREINFO is: drgn attaches by it.
            "-device", "vmcoreinfo",
            "-device", "pvpanic",
            # What dropbear and the kernel draw from; the seed comes with the keys.
            "-device", "virtio-rng-pci",
            "-chardev", f"{wiring.console},id=console",
            "-serial", "chardev:console",
            "-chardev", f"{wiring.monitor},id=monitor",
            "-mon", "chardev=monitor,mode=control",
            # A QMP socket serves one client, so drgn has its own.
            *_monitor("drgn", wiring.drgn),
            *(_monitor("visitors", wiring.visitors) if wiring.visitors is not None else []),
            "-device", "virtio-serial-pci",
            "-chardev", f"{wiring.keys},id=keys",
            "-device", f"virtserialport,chardev=keys,name={KEYS_PORT}",
            # No way out (restrict=on); the way in is a port of the host's choice, read back from `info usernet`.
            "-netdev", "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22",
            # Without the option ROM: nothing boots from the network, and the file may not be installed.
            "-device", "virtio-net-pci,netdev=net,romfile=",
            *(["-incoming", "defer"] if wiring.incoming else []),
        ]
        # fmt: on

    def accelerator_argv(self) -> list[str]:
        """Return QEMU's arguments for the accelerator and the clock."""
        if self.icount:
            # One instruction is 2^0 ns, and an idle guest's clock jumps to the next timer instead of sleeping.
            return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-rtc", RTC]
        return ["-accel", self.accelerator]

    def ram_files(self, ram: Path) -> tuple[tuple[Path, int], ...]:
        """Return the files that the RAM lies in, with their sizes in bytes: `ram`, further nodes', the DIMM's."""
        share = self.memory_bytes // self.nodes
        files = [(ram.with_name(f"{ram.name}{node or ''}"), share) for node in range(self.nodes)]
        return (*files, *([(ram.with_name("dimm"), self.dimm_bytes)] if self.dimm_bytes else ()))

    def _memory(self, ram: Path) -> list[str]:
        """Return the RAM's back ends. Shared: drgn's bulk reads and the poison work on the same files."""
        words = []
        for node, (path, size_bytes) in enumerate(self.ram_files(ram)):
            name = path.name if node else "ram"
            backend = {"id": name, "size": size_bytes, "mem-path": path, "share": True}
            words += ["-object", option("memory-backend-file", backend)]
            if node == self.nodes:
                words += ["-device", f"pc-dimm,id={name}0,memdev={name}"]
            elif self.nodes > 1:
                words += ["-numa", f"node,nodeid={node},{self._cpus_of(node)}memdev={name}"]
        return words

    def _cpus_of(self, node: int) -> str:
        nodes = self.nodes if self.cpus >= self.nodes else 1
        if node >= nodes:
            return ""
        first, end = (self.cpus * number // nodes for number in (node, node + 1))
        return f"cpus={first}-{end - 1},"
