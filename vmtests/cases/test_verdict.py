"""The verdict on kernels whose difference is known: what is slower is "more", what is not is "same".

All of it on small namespaces. A verdict is on instructions a page, and the work for a page is the same in one of
any size; what is done once for a bind, which the mean over few pages shows most of, is alike in both kernels.
"""

from dataclasses import replace

import pytest

from vmtests.cases.test_wrong_kernels import wrong_kernel
from vmtests.pmem import NamespaceSpec
from vmtests.record import BindEntry, ComparisonEntry
from vmtests.run.run import Run
from vmtests.run.sealed import SealedBench
from vmtests.timing import rig, verdict

SEALED_SIZE = 4 << 30
#: An interrupt for the SSH session takes some 2,000 instructions: 35 millionths of a bind of 4 GiB, 4 of one of 32 GiB.
SSH_SIZE = 32 << 30
REBINDS = 5


def ssh_boot(run: Run, kernel: str, boot: int) -> list[BindEntry]:
    """Count as the main job does."""
    with run.bench(kernel, NamespaceSpec(), boot, pmem_size=SSH_SIZE, clock="icount", cold=True) as bench:
        binds = [bench.create_namespace(), *bench.rebind(REBINDS)]
    return [bind.entry for bind in binds]


def sealed_boot(run: Run, kernel: str, boot: int) -> list[BindEntry]:
    """Count in a guest that is left alone."""
    bench = SealedBench(run, kernel, NamespaceSpec(), boot, pmem_size=SEALED_SIZE)
    return [bind.entry for bind in bench.rebind(REBINDS)]


BOOTS = {"ssh": ssh_boot, "sealed": sealed_boot}


def judge(binds: list[BindEntry], base: str, patched: str) -> dict[str, ComparisonEntry]:
    """Return the comparisons by metric, of a rig that is not broken."""
    assert not rig.check(binds)
    return {one.metric: one for one in verdict.compare_all(binds, (base, patched), "icount")}


@pytest.mark.full
@pytest.mark.parametrize("guests", BOOTS)
@pytest.mark.parametrize(("other", "word"), [("count-slower", "slower"), ("count-same", "same")])
def test_a_known_difference(run: Run, guests: str, other: str, word: str) -> None:
    """One load and store more for every fourth page is more; a compiler barrier is the same."""
    run.add(wrong_kernel(other))
    found = judge([*BOOTS[guests](run, "patched", 0), *BOOTS[guests](run, other, 0)], "patched", other)
    run.progress.say(f"  {other} against patched, {guests}: {(found['rebind'].ratio - 1) * 100:+.3f} %")
    assert set(found) == ({"first", "rebind"} if guests == "ssh" else {"rebind"})
    assert {one.verdict for one in found.values()} == {word}
    if word == "slower":
        visible = found["rebind"].smallest_visible
        assert visible is not None
        assert found["rebind"].ratio > 1 + visible


@pytest.mark.full
@pytest.mark.parametrize("guests", BOOTS)
def test_a_kernel_against_itself(run: Run, guests: str) -> None:
    """Three pairs of boots of base, each judged as if the second boot were of another kernel: same, three times."""
    boots = [BOOTS[guests](run, "base", number) for number in range(6)]
    assert not rig.check([bind for boot in boots for bind in boot])
    for one, other in zip(boots[::2], boots[1::2], strict=True):
        renamed = [replace(bind, kernel="again", boot=one[0].boot) for bind in other]
        found = judge([*one, *renamed], "base", "again")
        run.progress.say(f"  base against itself, {guests}: {(found['rebind'].ratio - 1) * 1e6:+.1f} parts per million")
        assert {entry.verdict for entry in found.values()} == {"same"}
    if guests == "sealed":
        assert len({tuple(bind.duration_ns for bind in boot) for boot in boots}) == 1
