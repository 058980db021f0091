"""Kernels that die in every way that can be had: each is noticed at once, and called by what the kernel says of it."""

import pytest

from vmtests.cases.fault import fails
from vmtests.errors import KernelFailure
from vmtests.run.run import Run

#: What dies, how it is brought about, more words for the kernel's command line, and what the failure must say. The
#: kernel's own crash test (drivers/misc/lkdtm) does most of it; the rest is sysrq and misfortune. No RCU stall: on
#: one CPU none came within 80 s (tests/consoles/ has one of two CPUs).
DEATHS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "panic": ("lkdtm PANIC", (), r"Kernel panic - not syncing: dumptest"),
    "bug": ("lkdtm BUG", (), r"kernel BUG at "),
    "null-pointer": ("lkdtm EXCEPTION", (), r"NULL pointer dereference"),
    "write-to-read-only": ("lkdtm WRITE_RO", (), r"BUG: unable to handle page fault"),
    "jump-into-data": ("lkdtm EXEC_DATA", (), r"BUG: unable to handle page fault"),
    "bug-in-an-interrupt": ("lkdtm BUG_IN_HARDIRQ", (), r"kernel BUG at "),
    "stack-overflow": ("lkdtm EXHAUST_STACK", (), r"BUG: TASK stack guard page was hit"),
    "list-corruption": ("lkdtm CORRUPT_LIST_ADD", (), r"kernel BUG at lib/list_debug\.c"),
    "double-free": ("lkdtm SLAB_FREE_DOUBLE", ("slab_debug=F",), r"BUG lkdtm-heap-double_free "),
    "soft-lockup": ("lkdtm SOFTLOCKUP", ("watchdog_thresh=2",), r"soft lockup"),
    "workqueue-lockup": (
        "lkdtm SOFTLOCKUP",
        # Without a panic the thread that prints on the console does not get the CPU to say so.
        (
            "nosoftlockup",
            "workqueue.watchdog_thresh=2",
            "workqueue.panic_on_stall=1",
            "rcupdate.rcu_cpu_stall_suppress=1",
        ),
        r"workqueue lockup",
    ),
    "hung-task": (
        "echo 3 > /proc/sys/kernel/hung_task_timeout_secs; lkdtm HUNG_TASK",
        (),
        r"task .* blocked for more than",
    ),
    "sysrq": ("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", (), r"sysrq triggered crash"),
    "out-of-memory": (
        "echo 1 > /proc/sys/vm/panic_on_oom; tail /dev/zero",
        (),
        r"Out of memory: .*panic_on_oom",
    ),
}

_LKDTM = 'lkdtm() { echo "$1" > /sys/kernel/debug/provoke-crash/DIRECT; }\n'


@pytest.mark.full
@pytest.mark.parametrize("death", DEATHS)
def test_death(run: Run, death: str) -> None:
    """The kernel's words end the command that runs, at once, and not the command's own deadline."""
    script, append, says = DEATHS[death]
    with (
        fails(run, f"the kernel dies of {death.replace('-', ' ')}", KernelFailure, says, announced=says),
        run.guest("faults", 0, append=append) as guest,
    ):
        guest.run(_LKDTM + script, seconds=300, check=False)
