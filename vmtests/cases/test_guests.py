"""Guests that start from a snapshot: as good as booted ones, and strangers to each other."""

from statistics import median

import pytest

from vmtests.pmem import NamespaceSpec
from vmtests.run.run import Run

GIB = 1 << 30

#: What two guests must not have in common. The kernel's random numbers would be the same if its generator were not
#: seeded anew (images/init).
SECRETS = {
    "host key": "md5sum /etc/dropbear/host_key",
    "authorised key": "md5sum /root/.ssh/authorized_keys",
    "random numbers": "head -c 64 /dev/urandom | md5sum",
    "uuid": "cat /proc/sys/kernel/random/uuid",
}

#: What counts of two guests may differ by.
TOLERANCE = 50e-6


def test_restored_guests_are_strangers(run: Run) -> None:
    """Two guests from one snapshot have other keys, and their kernels draw other random numbers, at once."""
    with run.guest("base", 0) as one, run.guest("base", 1) as other:
        if not (one.restored and other.restored):
            pytest.skip("no guest can be restored here: every one boots by itself")
        found = {name: (one.run(command).stdout, other.run(command).stdout) for name, command in SECRETS.items()}
    assert not [name for name, (first, second) in found.items() if first == second]


@pytest.mark.full
def test_restored_and_booted_guests_count_the_same(run: Run) -> None:
    """Whether a guest was booted or restored makes no difference to the instructions of its binds."""
    if run.clock != "icount":
        pytest.skip("only counts of instructions can be held against each other so closely: --clock icount")
    counts = {}
    for cold in (True, False):
        with run.bench("base", NamespaceSpec(), 0, pmem_size=4 * GIB, clock="icount", cold=cold) as bench:
            assert bench.guest.restored != cold
            first = bench.create_namespace()
            counts[cold] = (first.entry.duration_ns, median(bind.entry.duration_ns for bind in bench.rebind(10)))
    for what, booted, restored in zip(("first bind", "rebinds"), counts[True], counts[False], strict=True):
        run.progress.say(f"  {what}: booted {booted:,} instructions, restored {restored:,}")
        assert abs(restored / booted - 1) <= TOLERANCE, what
