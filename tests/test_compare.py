"""Two records held against each other: what is refused, what is warned of, what is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fake_record import NAMESPACE, record
from tests.test_record import BIND
from vmtests.errors import ExitCode, UsageError
from vmtests.record import Record, RecordWriter, read
from vmtests.report import offline
from vmtests.timing.compare import compare

QUIET = [10.0, 10.1, 9.9, 10.0, 10.05, 9.95]


def _scaled(factor: float) -> list[float]:
    return [value * factor for value in QUIET]


def _two(tmp_path: Path, here: Mapping[str, object], there: Mapping[str, object]) -> tuple[Record, Record]:
    """Return two records that differ in what is given."""
    usual: dict[str, object] = {"values": {"base": QUIET}}
    found = [record(tmp_path / name, **(usual | dict(what))) for name, what in (("one", here), ("two", there))]  # type: ignore[arg-type]
    return found[0], found[1]


COUNTS: dict[str, object] = {"values": {"base": [55.0]}, "clock": "icount"}


@pytest.mark.parametrize(
    ("here", "there", "message"),
    [
        ({}, COUNTS, "the clocks differ: wall in .*one, icount in .*two"),
        ({}, {"namespace": {"id": "devdax-2m-mem"}}, "the namespaces differ: fsdax-dev in .*one, devdax-2m-mem in"),
        ({}, {"namespace": {"size_bytes": 1 << 40}}, f"the namespaces fsdax-dev differ: .*size={100 << 30} in"),
        ({}, {"pages": 1 << 20}, f"the pages of fsdax-dev differ: {BIND.pages} in .*one, 1048576 in"),
        (COUNTS, COUNTS | {"host": {"qemu_version": "10.1"}}, "versions of QEMU differ: 7.2.22 in .*one, 10.1 in"),
        ({"values": {"a": QUIET, "b": QUIET}}, {"values": {"c": QUIET}}, "no kernel is in both .* has a b, .* has c"),
    ],
)
def test_what_is_refused(tmp_path: Path, here: Mapping[str, object], there: Mapping[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(*_two(tmp_path, here, there))


@pytest.mark.parametrize(
    ("there", "warning"),
    [
        ({"host": {"accelerator": "kvm"}}, "the accelerators differ: tcg in"),
        ({"host": {"cpu_model": "max"}}, "the CPU models differ: Icelake-Server in"),
        ({"kernel": {"compiler": "clang 19"}}, "the compilers of base differ: gcc 12.2.0 in"),
        ({"rig": "sealed"}, "the rigs differ: ssh in"),
        ({"host": {"qemu_version": "10.1"}}, None),
    ],
)
def test_what_is_warned_of(tmp_path: Path, there: Mapping[str, object], warning: str | None) -> None:
    found = compare(*_two(tmp_path, {}, there))
    assert [entry.verdict for entry in found.entries] == ["same", "same"]
    *warnings, last = found.warnings
    assert "no pairs" in last
    assert [text.startswith(warning or "") for text in warnings] == ([True] if warning else [])


def test_a_namespace_that_only_one_has_is_left_out(tmp_path: Path) -> None:
    one, _ = _two(tmp_path, {}, {})
    writer = RecordWriter(tmp_path / "more", argv=[], seed=1)
    document = dict(one.document)
    document["namespaces"] = [*document["namespaces"], dataclasses.replace(NAMESPACE, id="devdax-2m-mem").to_json()]
    document["binds"] = [*document["binds"], dataclasses.replace(BIND, namespace="devdax-2m-mem").to_json()]
    writer.save(ExitCode.PASSED)
    (tmp_path / "more" / "run.json").write_text(json.dumps(document))
    assert any(
        "only one of the records has devdax-2m-mem" in text for text in compare(one, read(tmp_path / "more")).warnings
    )


def test_a_namespace_of_another_size_that_a_test_made(tmp_path: Path) -> None:
    """The record of a whole tier has namespaces of the same kind and other sizes: they are not what was timed."""
    one, two = _two(tmp_path, {}, {})
    sizes = [dataclasses.replace(NAMESPACE, size_bytes=size).to_json() for size in (4 << 30, 1 << 40)]
    one.document["namespaces"] = [sizes[0], *one.document["namespaces"], sizes[1]]
    assert [entry.verdict for entry in compare(one, two).entries] == ["same", "same"]


def test_clocks_are_not_mixed(tmp_path: Path) -> None:
    one, two = _two(tmp_path, {}, {})
    one.document["binds"] = [*one.document["binds"], dataclasses.replace(BIND, clock="icount", boot=9).to_json()]
    with pytest.raises(UsageError, match="one mixes the clocks icount and wall"):
        compare(one, two)


def test_samples_that_are_missing(tmp_path: Path) -> None:
    """A boot with fewer rebinds than the others is no sample; a record with none that is whole is refused."""
    one, two = _two(tmp_path, {"values": {"base": [99.0, 10.0]}}, {"values": {"base": [10.0]}})
    short = [bind for bind in one.document["binds"] if not (bind["boot"] == 0 and bind["index"] == 3)]
    one.document["binds"] = short
    assert {entry.pairs for entry in compare(one, two).entries} == {1}
    assert compare(one, two).entries[1].base_value == pytest.approx(10.0, rel=0.01)
    two.document["binds"] = [bind for bind in two.document["binds"] if bind["index"] == 0]
    assert [entry.metric for entry in compare(one, two).entries] == ["first"]


def test_binds_of_two_rigs_are_no_series(tmp_path: Path) -> None:
    one, two = _two(tmp_path, COUNTS, COUNTS)
    one.document["binds"] = [
        *one.document["binds"],
        dataclasses.replace(BIND, clock="icount", rig="sealed", boot=1).to_json(),
    ]
    with pytest.raises(UsageError, match="binds of the rigs sealed and ssh"):
        compare(one, two)


def test_counts_of_a_broken_rig_are_not_compared(tmp_path: Path) -> None:
    """Two boots of one kernel in the first record count differently: whatever the second says, there is no verdict."""
    found = compare(*_two(tmp_path, {"values": {"base": [55.0, 55.01]}, "clock": "icount"}, COUNTS))
    assert [entry.verdict for entry in found.entries] == ["no-verdict", "no-verdict"]


def test_a_record_without_samples(tmp_path: Path) -> None:
    one, _ = _two(tmp_path, {}, {})
    RecordWriter(tmp_path / "empty", argv=[], seed=1).save(ExitCode.HOST_FAILED)
    with pytest.raises(UsageError, match="empty holds no timing samples"):
        compare(one, read(tmp_path / "empty"))


def test_two_kernels_of_two_records(tmp_path: Path) -> None:
    """One kernel each: they are compared under whatever name. The boots are no pairs, and need not be as many."""
    found = compare(*_two(tmp_path, {}, {"values": {"mine": [*_scaled(0.9), 9.0]}}))
    first, rebind = found.entries
    assert (rebind.base, rebind.patched, rebind.metric) == ("base", "mine", "rebind")
    assert rebind.verdict == "faster"
    assert rebind.ratio == pytest.approx(0.9, rel=1e-3)
    assert rebind.pairs == 6
    assert first.metric == "first"
    assert found.reproductions == ()


def test_counts_of_two_records(tmp_path: Path) -> None:
    found = compare(*_two(tmp_path, COUNTS, COUNTS | {"values": {"base": [56.0]}}))
    assert [entry.verdict for entry in found.entries] == ["slower", "slower"]
    assert found.entries[1].ratio == pytest.approx(56 / 55)
    assert found.entries[1].unit == "instructions/page"
    assert found.warnings == ()


@pytest.mark.parametrize(("factor", "word"), [(0.5, "same"), (0.6, "slower")])
def test_a_change_is_reproduced_or_not(tmp_path: Path, factor: float, word: str) -> None:
    """Another machine, twice as slow: what travels is the change that the patch makes."""
    there = {"values": {"base": _scaled(2), "patched": _scaled(2 * factor)}}
    found = compare(*_two(tmp_path, {"values": {"base": QUIET, "patched": _scaled(0.5)}}, there))
    assert {entry.verdict for entry in found.entries} == {"slower"}
    for one in found.reproductions:
        assert one.verdict == word
        assert one.ratio == pytest.approx(factor / 0.5)
        assert (one.first.verdict, one.second.verdict) == ("faster", "faster")
    assert [one.first.metric for one in found.reproductions] == ["first", "rebind"]


def test_counts_reproduce_a_change(tmp_path: Path) -> None:
    values: dict[str, object] = {"values": {"base": [55.0], "patched": [19.0]}}
    found = compare(*_two(tmp_path, COUNTS | values, COUNTS | values))
    assert [one.verdict for one in found.reproductions] == ["same", "same"]


def test_a_comparison_as_json(tmp_path: Path) -> None:
    both = {"values": {"base": QUIET, "patched": _scaled(0.5)}}
    document = json.loads(json.dumps(compare(*_two(tmp_path, both, both)).to_json()))
    assert document["entries"][0]["verdict"] == "same"
    assert document["reproductions"][0]["first"]["patched"] == "patched"


def test_a_comparison_as_text(tmp_path: Path) -> None:
    here: dict[str, object] = {"values": {"base": [273.52] * 6, "patched": [246.14] * 6}}
    text = offline.comparison(compare(*_two(tmp_path, here, here | {"host": {"accelerator": "kvm"}})))
    assert text.startswith("warning: the accelerators differ: tcg in")
    assert (
        "fsdax-dev rebind, base: 273.5 ms -> 273.5 ms, +0.00 % [+0.00 %, +0.00 %]: same, smallest visible: 0 %" in text
    )
    assert "fsdax-dev rebind, patched against base: -10.01 %, then -10.01 % [+0.00 %, +0.00 %]: reproduced" in text
    assert text.endswith("not comparable with hardware")
