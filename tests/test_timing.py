"""Trace lines become samples, samples become one number a boot, pairs of boots become a verdict."""

from __future__ import annotations

import dataclasses

import pytest

from tests.test_record import BIND
from vmtests.errors import ExitCode, KernelFailure
from vmtests.record import BindEntry
from vmtests.timing import dmesg, trace, verdict

TRACE = """\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
              sh-101     [000] .....    12.000100: tracing_mark_write: bind 1
              sh-101     [000] .....    12.345678: vmtests_mi: (memmap_init_zone_device+0x0/0x310) start=1310720 \
nr=26214400 pgmap=0xffff888003a5c018 base_pfn=1310720 reserve=512 free=409600 type=3 flags=1 vmemmap_shift=0
              sh-101     [000] .....    13.345678: vmtests_mo: (pagemap_range+0x1d5/0x2c0 <- memmap_init_zone_device)
              sh-101     [000] .....    13.400000: tracing_mark_write: bound 1
"""


def test_a_call_and_its_arguments() -> None:
    (call,) = trace.calls(trace.events(TRACE))
    assert call.duration == 10**9
    assert call.arguments["nr"] == 26214400
    assert call.arguments["pgmap"] == 0xFFFF888003A5C018
    assert call.arguments["flags"] == 1


def test_ticks_are_whole_numbers() -> None:
    ticks = TRACE.replace("12.345678", "5000000123").replace("13.345678", "5000000323")
    (call,) = trace.calls(trace.events(ticks))
    assert call.duration == 200


def test_marks() -> None:
    marks = trace.marks(trace.events(TRACE))
    assert marks["bound 1"] - marks["bind 1"] == 1_399_900_000


def test_lost_events_are_an_error() -> None:
    with pytest.raises(KernelFailure, match="lost events"):
        list(trace.events(TRACE + "CPU:0 [LOST 12 EVENTS]\n"))


def test_two_binds_at_once_are_told_apart_by_their_tasks() -> None:
    head, mark, entry, end, _ = TRACE.splitlines(keepends=True)[1:]
    other = entry.replace("sh-101", "sh-102").replace("12.345678", "12.500000").replace("nr=26214400", "nr=524288")
    other_end = end.replace("sh-101", "sh-102").replace("13.345678", "12.750000")
    first, second = trace.calls(trace.events("".join([head, mark, entry, other, other_end, end])))
    assert (first.arguments["nr"], first.duration) == (524288, 250_000_000)
    assert (second.arguments["nr"], second.duration) == (26214400, 10**9)


def test_a_second_entry_of_one_task_is_an_error() -> None:
    lines = TRACE.splitlines(keepends=True)
    with pytest.raises(KernelFailure, match="twice by task 101"):
        trace.calls(trace.events("".join([*lines[:4], *lines[3:]])))


def test_a_call_that_never_returned_is_an_error() -> None:
    with pytest.raises(KernelFailure, match="has not returned"):
        trace.calls(trace.events("\n".join(line for line in TRACE.splitlines() if "vmtests_mo" not in line)))


def _boots(kernel: str, per_page: list[float], clock: str, rebinds: int = 3) -> list[BindEntry]:
    return [
        dataclasses.replace(
            BIND, kernel=kernel, boot=boot, index=index, clock=clock, duration_ns=round(value * BIND.pages)
        )
        for boot, value in enumerate(per_page)
        for index in range(rebinds + 1)
    ]


@pytest.mark.parametrize(("patched", "word"), [(19.0, "faster"), (56.0, "slower"), (55.01, "same")])
def test_counts_need_one_pair(patched: float, word: str) -> None:
    binds = _boots("base", [55.0], "icount") + _boots("patched", [patched], "icount")
    found = verdict.compare(binds, "base", "patched", "fsdax-dev", "icount", "rebind")
    assert found is not None
    assert found.verdict == word
    assert found.ratio == pytest.approx(patched / 55.0, rel=1e-6)
    assert found.unit == "instructions/page"
    assert found.pairs == 1


def test_one_pair_of_times_is_no_verdict() -> None:
    binds = _boots("base", [10.0], "wall") + _boots("patched", [4.0], "wall")
    found = verdict.compare(binds, "base", "patched", "fsdax-dev", "wall", "rebind")
    assert found is not None
    assert found.verdict == "no-verdict"


@pytest.mark.parametrize(
    ("factors", "word"),
    [
        ([0.40, 0.41, 0.39, 0.40, 0.42, 0.40], "faster"),
        ([1.20, 1.22, 1.18, 1.21, 1.19, 1.20], "slower"),
        ([1.001, 0.999, 1.002, 0.998, 1.0, 1.0], "same"),
        ([1.3, 0.8, 1.1, 0.9, 1.25, 0.75], "no-verdict"),
    ],
)
def test_pairs_of_times(factors: list[float], word: str) -> None:
    base = [10.0, 11.0, 10.5, 10.2, 9.9, 10.4]
    patched = [one * factor for one, factor in zip(base, factors, strict=True)]
    binds = _boots("base", base, "wall") + _boots("patched", patched, "wall")
    found = verdict.compare(binds, "base", "patched", "fsdax-dev", "wall", "rebind")
    assert found is not None
    assert found.verdict == word
    assert found.pairs == 6
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < found.ratio < found.ci_high


def test_a_poisoned_bind_is_no_sample() -> None:
    binds = _boots("base", [55.0], "icount") + _boots("patched", [55.0], "icount")
    binds.append(dataclasses.replace(binds[-1], index=31, duration_ns=10**12, poisoned=True))
    found = verdict.compare(binds, "base", "patched", "fsdax-dev", "icount", "rebind")
    assert found is not None
    assert found.verdict == "same"


def test_half_a_pair_is_dropped() -> None:
    binds = _boots("base", [55.0, 55.0], "icount") + _boots("patched", [50.0], "icount")
    found = verdict.compare(binds, "base", "patched", "fsdax-dev", "icount", "rebind")
    assert found is not None
    assert found.pairs == 1
    assert verdict.compare(binds, "base", "other", "fsdax-dev", "icount", "rebind") is None


def test_the_first_bind_is_its_own_metric() -> None:
    binds = [
        dataclasses.replace(bind, duration_ns=bind.duration_ns * (5 if bind.index == 0 else 1))
        for bind in _boots("base", [10.0, 10.0], "wall") + _boots("patched", [10.0, 10.0], "wall")
    ]
    first = verdict.compare(binds, "base", "patched", "fsdax-dev", "wall", "first")
    rebind = verdict.compare(binds, "base", "patched", "fsdax-dev", "wall", "rebind")
    assert first is not None
    assert rebind is not None
    assert first.base_value == pytest.approx(5 * rebind.base_value)


@pytest.mark.parametrize(
    ("patched", "limit", "code"),
    [
        (56.0, 0.01, ExitCode.KERNEL_FAILED),
        (56.0, 0.05, ExitCode.PASSED),
        (50.0, 0.01, ExitCode.PASSED),
    ],
)
def test_the_gate(patched: float, limit: float, code: ExitCode) -> None:
    binds = _boots("base", [55.0], "icount") + _boots("patched", [patched], "icount")
    found = verdict.compare(binds, "base", "patched", "fsdax-dev", "icount", "rebind")
    assert found is not None
    assert verdict.gate(found, limit) is code


def test_the_kernels_own_warnings() -> None:
    text = "[ 1.0] WARNING: CPU: 0 PID: 1 at fs/dax.c:452\n[ 1.1] all is well\n[ 2.0] BUG: sleeping function called"
    assert len(dmesg.warnings(text)) == 2
