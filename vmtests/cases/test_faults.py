"""A kernel, a guest's programs or QEMU that dies, hangs or stops: each is noticed soon, and called by its name."""

import os
import signal

import psutil
import pytest

from vmtests.cases.fault import SOON, fails
from vmtests.errors import HostFailure, KernelFailure
from vmtests.guest.pulse import LOST_SECONDS
from vmtests.pmem import NamespaceSpec
from vmtests.run.run import Run

GIB = 1 << 30

#: Crash points of kernels/patches/crash-points, by the verb of sysfs that comes by.
POINTS = {"bind": "MEMMAP_INIT", "unbind": "MEMUNMAP"}
#: How often one must be come by (DEFAULT_COUNT in drivers/misc/lkdtm/core.c).
HITS = 10
#: Ways to die there, as lkdtm calls them, and what the failure must say.
WAYS = {
    "PANIC": r"Kernel panic - not syncing: dumptest",
    "EXCEPTION": r"NULL pointer dereference",
    "HARDLOCKUP": r"CPU 0 has taken no interrupt for .*its CPUs were at RIP",
}
CALLED = {
    "PANIC": "the kernel panics",
    "EXCEPTION": "the kernel oopses",
    "HARDLOCKUP": "the kernel hangs, interrupts off,",
}
QUICK = {("bind", "PANIC"), ("bind", "HARDLOCKUP")}


def test_panic_at_boot(run: Run) -> None:
    """A kernel that finds no init panics, which ends the wait for it at once."""
    says = r"panic - not syncing: VFS: Unable to mount root"
    with (
        fails(run, "the kernel panics at boot", KernelFailure, says, announced=says),
        run.guest("base", 0, append=["rdinit=/nowhere"]),
    ):
        pass


@pytest.mark.full
def test_hang_at_boot(run: Run) -> None:
    """With its interrupts off: the console's silence tells."""
    crash = ["lkdtm.cpoint_name=INT_HW_IRQ_EN", "lkdtm.cpoint_type=HARDLOCKUP", "lkdtm.cpoint_count=1"]
    with (
        fails(
            run,
            "the kernel hangs at boot, interrupts off",
            KernelFailure,
            r"booting kernel crash: the console said nothing for .*its CPUs were at RIP",
            announced="Crash point INT_HW_IRQ_EN of type HARDLOCKUP registered",
            within=10 * run.machine().patience() + SOON,
        ),
        run.guest("crash", 0, append=crash),
    ):
        pass


@pytest.mark.parametrize(
    ("verb", "way"),
    [
        pytest.param(verb, way, id=f"{verb}-{way.lower()}", marks=() if (verb, way) in QUICK else pytest.mark.full)
        for verb in POINTS
        for way in WAYS
    ],
)
def test_death_under(run: Run, verb: str, way: str) -> None:
    """The kernel's words, or its CPU's deafness, end the rebind that is under way; not its deadline, which is long."""
    hangs = way == "HARDLOCKUP"
    with (
        fails(
            run,
            f"{CALLED[way]} in {verb}",
            KernelFailure,
            WAYS[way],
            # What a hanging kernel has to say comes out when it is made to panic, and so too late.
            announced="" if hangs else f"Crash point {POINTS[verb]} of type {way} hit, trigger in 0 rounds",
            within=(LOST_SECONDS * run.machine().patience() + 2 if hangs else 0) + SOON,
        ) as fault,
        run.bench("crash", NamespaceSpec(), 0, pmem_size=GIB) as bench,
    ):
        bench.create_namespace()
        bench.guest.write(f"/sys/kernel/debug/provoke-crash/{POINTS[verb]}", way.encode())
        if hangs:
            fault.comes()
        bench.rebind(HITS)


def test_panic_under_a_command(run: Run) -> None:
    """The kernel's last words win over the connection that is lost with it."""
    says = r"panic - not syncing: sysrq"
    with (
        fails(run, "the kernel panics under a command", KernelFailure, says, announced="sysrq: Trigger a crash"),
        run.guest("base", 0) as guest,
    ):
        guest.run("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", seconds=60)


def test_ssh_server_killed(run: Run) -> None:
    """The guest's fault, not the host's: its programs are all ours, and the kernel has let one die."""
    with (
        fails(run, "the guest's SSH server is killed", KernelFailure, "SSH server has closed the connection") as fault,
        run.guest("base", 0) as guest,
    ):
        fault.comes()
        guest.run("killall -9 dropbear; sleep 60", seconds=60)


@pytest.mark.full
def test_ssh_server_stopped(run: Run) -> None:
    """Nothing comes any more, and nothing is closed: the command's deadline tells."""
    with (
        fails(
            run,
            "the guest's SSH server is stopped, deadline 5 s",
            KernelFailure,
            r"running `.*killall -STOP dropbear.*not done within",
            within=5 * run.machine().patience() + SOON,
        ) as fault,
        run.guest("base", 0) as guest,
    ):
        fault.comes()
        guest.run("killall -STOP dropbear; sleep 60", seconds=5)


def test_qemu_killed(run: Run) -> None:
    """A QEMU that dies by itself is the host's failure, not the kernel's."""
    with (
        fails(run, "QEMU is killed (SIGKILL)", HostFailure, "QEMU ended on SIGKILL") as fault,
        run.guest("base", 0) as guest,
    ):
        fault.comes()
        os.kill(guest.pid, signal.SIGKILL)
        guest.run(["sleep", "60"], seconds=60)


def test_qemu_stopped(run: Run) -> None:
    """Its silence is not the guest's; it is noticed before the command's deadline, and ended all the same."""
    with (
        fails(run, "QEMU is stopped (SIGSTOP)", HostFailure, r"QEMU \(pid \d+\) is stopped", within=6) as fault,
        run.guest("base", 0) as guest,
    ):
        qemu = psutil.Process(guest.pid)
        fault.comes()
        qemu.suspend()
        guest.run(["sleep", "60"], seconds=60)
    assert not qemu.is_running()


@pytest.mark.full
def test_qemu_stopped_under_its_monitor(run: Run) -> None:
    """A monitor that does not answer is no endless wait either."""
    with (
        fails(
            run, "QEMU is stopped, and its monitor asked", HostFailure, r"QEMU \(pid \d+\) is stopped", within=6
        ) as fault,
        run.guest("base", 0) as guest,
    ):
        qemu = psutil.Process(guest.pid)
        fault.comes()
        qemu.suspend()
        guest.monitor.execute("query-status")
    assert not qemu.is_running()
