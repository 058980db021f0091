"""Faults around the procedure: each must end at once, be called by its name, and leave nothing behind."""

import os
import signal
import time

import pytest

from vmtests.errors import HostFailure, KernelFailure
from vmtests.pmem import NamespaceSpec
from vmtests.run.run import Run


def test_panic_at_boot(run: Run) -> None:
    """A kernel that finds no init panics, which ends the wait for it, and not the boot's own deadline."""
    with (
        pytest.raises(KernelFailure, match=r"\Abooting kernel base: .*panic - not syncing: VFS: Unable"),
        run.guest("base", 0, append=["rdinit=/nowhere"]),
    ):
        pass


def test_panic_under_a_command(run: Run) -> None:
    """The kernel's last words win over the connection that is lost with it."""
    with pytest.raises(KernelFailure, match=r"panic - not syncing: sysrq"), run.guest("base", 0) as guest:
        started = time.monotonic()
        guest.run("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", seconds=300)
    assert time.monotonic() - started < 60


def test_qemu_killed(run: Run) -> None:
    """A QEMU that dies by itself is the host's failure, not the kernel's."""
    with pytest.raises(HostFailure, match=r"(?i)qemu"), run.guest("base", 0) as guest:
        os.kill(guest.pid, signal.SIGKILL)
        guest.run(["sleep", "60"], seconds=60)


@pytest.mark.full
def test_truncated_backing_file(run: Run) -> None:
    """A memmap that is no longer in its file is the host's failure, and our process survives it."""
    with (
        pytest.raises((HostFailure, KernelFailure)),
        run.bench("base", NamespaceSpec(), 0, pmem_size=4 << 30) as bench,
    ):
        first = bench.create_namespace()
        os.truncate(bench.region.nvdimm.backing, 1 << 20)
        bench.check_memmap(first)
