"""The history: what is kept, what belongs together, what is an alert, and what survives kills and rivals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fake_record import record
from vmtests.errors import ExitCode, UsageError
from vmtests.report import offline
from vmtests.timing import history
from vmtests.timing.history import Checked
from vmtests.timing.log import Log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The history's."""
    return tmp_path / "history"


@pytest.fixture
def night(tmp_path: Path, folder: Path) -> Callable[..., history.Added]:
    """Add the record of a night, on a clock that goes on: instructions a page of base, or of several kernels."""
    count = 0

    def add(value: float = 55.0, *, day: int | None = None, **fields: object) -> history.Added:
        nonlocal count
        count += 1
        day = count if day is None else day
        usual: dict[str, object] = {"values": {"base": [value]}, "clock": "icount"}
        started = f"2026-{day // 28 + 1:02}-{day % 28 + 1:02}T01:00:00+00:00"
        found = record(tmp_path / f"run{count}", started=started, **(usual | fields))  # type: ignore[arg-type]
        return history.add(folder, found)

    return add


def _rebinds(checked: Checked) -> list[tuple[str, float]]:
    """Return state and size in percent of the alerts about rebinds."""
    return [
        (one.state, round(one.change.size * 100, 2)) for one in checked.alerts if one.series.key["metric"] == "rebind"
    ]


def test_what_is_kept(night: Callable[..., history.Added], folder: Path) -> None:
    added = night(55.0)
    (series,) = [one for one in history.show(folder).series if one.key["metric"] == "rebind"]
    assert series.id in added.series
    assert series.unit == "instructions/page"
    assert series.key["qemu"] == "7.2.22"
    assert series.key["machine"] == "-m 2G,slots=4 -smp 1"
    (point,) = series.points
    assert (point.run, round(point.value, 6)) == (added.run, 55.0)
    assert point.kernel == "base 7.3.4, linux-source-7.3 7.3.4-1"
    (line,) = (folder / "history.jsonl").read_text().splitlines()
    assert len(json.loads(line)["samples"]["fsdax-dev"]["base"]["0"]) == 4


def test_a_run_is_added_once(folder: Path, tmp_path: Path) -> None:
    found = record(tmp_path / "one", {"base": [55.0]}, clock="icount")
    first, second = history.add(folder, found), history.add(folder, found)
    assert first.run == second.run
    assert "in the history already" in second.notes[0]
    assert len((folder / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"host": {"qemu_version": "10.1"}},
        {"host": {"cpu_model": "max"}},
        {"host": {"accelerator": "kvm"}},
        {"kernel": {"compiler": "clang 19"}},
        {"kernel": {"config_sha256": "d" * 64}},
        {"pages": 1 << 20},
        {"namespace": {"id": "devdax-2m-mem", "mode": "devdax", "map": "mem"}},
        {"rig": "sealed"},
        {"values": {"other": [60.0]}},
    ],
)
def test_what_is_not_comparable_is_another_series(
    night: Callable[..., history.Added], folder: Path, fields: dict[str, object]
) -> None:
    """Each part of the key on its own begins a new series, in which nothing is compared across."""
    first, second = night(55.0), night(60.0, **fields)
    assert not set(first.series) & set(second.series)
    assert history.check(folder).alerts == ()


def test_a_new_kernel_is_the_same_series(night: Callable[..., history.Added], folder: Path) -> None:
    night(55.0)
    night(60.0, kernel={"release": "7.3.5", "source": "linux-source-7.3 7.3.5-1"})
    (alert,) = [one for one in history.check(folder).alerts if one.series.key["metric"] == "rebind"]
    text = str(alert)
    assert "new: base fsdax-dev rebind (icount): +9.09 % (more), 55.0000 -> 60.0000 instructions/page" in text
    assert "base 7.3.4, linux-source-7.3 7.3.4-1" in text
    assert "base 7.3.5, linux-source-7.3 7.3.5-1" in text
    assert alert.change.before.run in text
    assert alert.change.after.run in text


def test_one_alert_a_change(night: Callable[..., history.Added], folder: Path) -> None:
    """New when it is told first, then known however many nights follow, fixed when a night is back."""
    for value in (55.0, 55.03, 55.0):
        night(value)
    assert _rebinds(history.check(folder)) == []
    night(56.1)
    found = history.check(folder)
    assert _rebinds(found) == [("new", 2.0)]
    assert found.exit_code == ExitCode.KERNEL_FAILED
    for value in (56.1, 56.12):
        night(value)
        found = history.check(folder)
        assert _rebinds(found) == [("known", 2.0)]
        assert found.exit_code == ExitCode.PASSED
    back = night(55.02)
    found = history.check(folder)
    assert _rebinds(found) == [("fixed", 2.0)]
    assert found.alerts[0].change.fixed == f"back in run {back.run}"
    assert _rebinds(history.check(folder)) == [("fixed", 2.0)]


def test_fewer_instructions_are_told_but_fail_nothing(night: Callable[..., history.Added], folder: Path) -> None:
    """A gain needs a new baseline too, or it hides a later loss."""
    night(55.0)
    night(50.0)
    found = history.check(folder)
    assert _rebinds(found) == [("new", -9.09)]
    assert found.exit_code == ExitCode.PASSED


def test_counts_creep(night: Callable[..., history.Added], folder: Path) -> None:
    """Every night 0.04 % more is within the tolerance of the night before, and not of the baseline."""
    for step in range(4):
        night(55.0 * (1 + 0.0004 * step))
    assert _rebinds(history.check(folder)) == [("new", 0.12)]


def test_counts_creep_after_they_are_back(night: Callable[..., history.Added], folder: Path) -> None:
    for value in (55.0, 56.0, 55.05, 55.1):
        night(value)
    assert _rebinds(history.check(folder)) == [("new", 0.18), ("fixed", 1.82)]


def test_two_changes_are_two_alerts(night: Callable[..., history.Added], folder: Path) -> None:
    for value in (55.0, 56.0, 57.0, 56.0):
        night(value)
    found = history.check(folder)
    assert [(state, size) for state, size in _rebinds(found)] == [("new", 1.82), ("fixed", 1.79)]


def test_an_accepted_baseline(night: Callable[..., history.Added], folder: Path) -> None:
    night(55.0)
    added = night(56.0)
    alerts = history.check(folder).alerts
    series = next(one.series.id for one in alerts if one.series.key["metric"] == "rebind")
    history.accept(folder, series[:5], "folio flags are set by the caller now")
    assert _rebinds(history.check(folder)) == [("fixed", 1.82)]
    assert next(a for a in history.check(folder).alerts if a.series.id == series).change.fixed == (
        "accepted: folio flags are set by the caller now"
    )
    night(56.03)
    assert _rebinds(history.check(folder)) == [("fixed", 1.82)]
    night(57.0)
    assert _rebinds(history.check(folder)) == [("new", 1.79), ("fixed", 1.82)]
    (shown,) = [one for one in history.show(folder).series if one.id == series]
    assert f"baseline run {added.run}" in str(shown)


@pytest.mark.parametrize(
    ("name", "reason", "run", "message"),
    [
        ("", "why not", None, "0 series are called ''"),
        ("zzz", "why not", None, "0 series are called 'zzz'"),
        (None, " ", None, "needs a reason"),
        (None, "why not", "2020-01-01-0", "has no run 2020-01-01-0"),
    ],
)
def test_what_cannot_be_accepted(
    night: Callable[..., history.Added], folder: Path, name: str | None, reason: str, run: str | None, message: str
) -> None:
    added = night()
    with pytest.raises(UsageError, match=message):
        history.accept(folder, added.series[0] if name is None else name, reason, run)


def test_the_history_as_text(night: Callable[..., history.Added], folder: Path) -> None:
    added = night(55.0)
    assert offline.added(added) == f"run {added.run}: 2 series"
    assert offline.alerts(history.check(folder)) == "no change"
    (_, line) = offline.history(history.show(folder)).splitlines()
    assert line.endswith(
        f"base fsdax-dev rebind icount: 55.0000 instructions/page in run {added.run}, 1 runs, "
        f"no baseline accepted, begun by run {added.run}"
    )
    with (folder / "history.jsonl").open("a") as file:
        file.write("{")
    assert "warning: " in offline.alerts(history.check(folder))
    documents = [history.show(folder).to_json(), history.check(folder).to_json(), added.to_json()]
    assert "line 2: cut off" in json.dumps(documents)


def test_runs_count_by_their_own_time(night: Callable[..., history.Added], folder: Path) -> None:
    night(56.0, day=20)
    night(55.0, day=10)
    assert _rebinds(history.check(folder)) == [("new", 1.82)]


def test_no_history(folder: Path) -> None:
    for verb in (history.show, history.check, lambda path: history.accept(path, "x", "y")):
        with pytest.raises(UsageError, match="holds no history"):
            verb(folder)


def test_what_is_left_out_of_a_run(folder: Path, tmp_path: Path) -> None:
    found = record(tmp_path / "one", {"base": [55.0], "patched": [19.0]}, clock="icount", wrong=["patched"])
    added = history.add(folder, found)
    assert any("patched: its memmap was wrong" in note for note in added.notes)
    assert {one.key["kernel"] for one in history.show(folder).series} == {"base"}


def test_clocks_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    mixed = record(tmp_path / "mixed", {"base": [55.0]}, clock="icount")
    mixed.document["binds"] = [
        *mixed.document["binds"],
        *(bind | {"clock": "wall", "boot": 1} for bind in mixed.document["binds"]),
    ]
    with pytest.raises(UsageError, match="by the clock icount and wall where icount alone"):
        history.add(folder, mixed)


def test_one_kernel_alone_has_no_ratio(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no figure to keep"):
        history.add(folder, record(tmp_path / "one", {"base": [10.0] * 3}))
    assert not folder.exists()


def test_times_are_ratios_to_the_reference(night: Callable[..., history.Added], folder: Path) -> None:
    """Night by night the host is half as fast again, and nothing has changed; then the patched kernel is slower."""
    rng = np.random.default_rng(2)
    for number in range(16):
        speed = 1.5 ** (number % 5)
        factor = 0.9 if number < 10 else 1.0
        noise = np.exp(rng.normal(0, 0.01, 4))
        base = [10 * speed * one for one in (1, 1.01, 0.99, 1)]
        patched = [time * factor * one for time, one in zip(base, noise, strict=True)]
        night(values={"base": base, "patched": patched}, clock="wall")
    found = history.check(folder)
    assert {alert.series.key["kernel"] for alert in found.alerts} == {"patched"}
    (alert,) = [one for one in found.alerts if one.series.key["metric"] == "rebind"]
    assert alert.change.size == pytest.approx(1 / 0.9 - 1, abs=0.01)
    assert alert.change.after.started.startswith("2026-01-12")
    assert alert.series.unit == "of base"
    assert _rebinds(history.check(folder)) == [("known", round(alert.change.size * 100, 2))]
    assert "ratio" not in str(alert)


def test_another_reference_is_another_series(night: Callable[..., history.Added]) -> None:
    values = {"base": [10.0] * 3, "patched": [9.0] * 3}
    first = night(values=values, clock="wall")
    assert set(first.series) == set(night(values=values, clock="wall").series)
    second = night(values=values, clock="wall", kernel={"release": "7.4"})
    assert not set(first.series) & set(second.series)


# What survives.


def _names(log: Log) -> list[object]:
    return [line.value["n"] for line in log.read()[0]]


def test_a_line_that_is_cut_anywhere_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    """Whatever of the last line a kill leaves: the lines before it stay, and so does what is written after it."""
    log = Log(tmp_path / "log.jsonl")
    log.append([{"n": 1}, {"n": 2}])
    whole = log.path.read_bytes()
    log.append([{"n": 3}])
    last = log.path.read_bytes()[len(whole) :]
    for length in range(1, len(last) - 1):
        log.path.write_bytes(whole + last[:length])
        assert _names(log) == [1, 2]
        (damage,) = log.read()[1]
        assert damage.startswith(f"{log.path}, line 3: cut off")
        log.append([{"n": 4}])
        assert _names(log) == [1, 2, 4]
        assert len(log.read()[1]) == 1


@pytest.mark.parametrize(
    "damage",
    [b"\x00\xff\n", b"[]\n", b"{}\n", b'{"schema":1,"kind":"run","run":"x","started":"never","figures":[]}\n',
     b'{"schema":1,"kind":"run","run":"x","started":"2026-01-01","figures":[{"key":{},"kernel":"k","value":1}]}\n',
     b'{"schema":1,"kind":"accepted","series":["x"],"run":"y"}\n', b'{"schema":1}\n'],
)  # fmt: skip
def test_a_damaged_line_is_named_and_the_rest_is_kept(
    night: Callable[..., history.Added], folder: Path, damage: bytes
) -> None:
    path = folder / "history.jsonl"
    night(55.0)
    with path.open("ab") as file:
        file.write(damage)
    night(56.0)
    found = history.check(folder)
    assert _rebinds(found) == [("new", 1.82)]
    (text,) = found.damaged
    assert text.startswith(f"{path}, line 2: ")


def test_a_newer_history_is_refused(night: Callable[..., history.Added], folder: Path) -> None:
    night()
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"schema": 2}\n')
    with pytest.raises(UsageError, match=r"line 2 has schema 2, this vmtests reads up to 1"):
        history.check(folder)


_WRITER = """
import sys
from pathlib import Path
from vmtests.timing.log import Log
log, writer, count, size = Log(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for number in range(count):
    with log.locked():
        log.append([{"n": f"{writer}-{number}", "filler": "x" * size}])
    print(number, flush=True)
"""


def _start(log: Log, writer: str, count: int, size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(log.path), writer, str(count), str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def test_two_writers_at_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    writers = [_start(log, name, 50, 10_000) for name in "ab"]
    assert [writer.communicate(timeout=60) and writer.returncode for writer in writers] == [0, 0]
    assert sorted(map(str, _names(log))) == sorted(f"{name}-{number}" for name in "ab" for number in range(50))
    assert log.read()[1] == []


def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    """Killed amid lines of 16 MB: what was acknowledged is there, and at most one line a kill is damaged."""
    log = Log(tmp_path / "log.jsonl")
    acknowledged = []
    for kill in range(3):
        size = log.path.stat().st_size if log.path.exists() else 0
        writer = _start(log, str(kill), 1000, 16_000_000)
        assert writer.stdout is not None
        acknowledged.append(f"{kill}-{int(writer.stdout.readline())}")
        while log.path.stat().st_size < size + 20_000_000:
            os.sched_yield()
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate(timeout=60)[0].split()
        acknowledged += [f"{kill}-{number}" for number in rest]
    lines, damaged = log.read()
    assert {line.value["n"] for line in lines} >= set(acknowledged)
    assert len(lines) <= len(acknowledged) + 3
    assert len(damaged) <= 3
    log.append([{"n": "after"}])
    assert _names(log)[-1] == "after"


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """The kernel writes what still fits; that is taken back."""
    log = Log(tmp_path / "log.jsonl")
    log.append([{"n": 1}])
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));" + _WRITER
    )
    command = [sys.executable, "-c", script, str(log.path), "a", "1", "1000"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert "nothing was added" in found.stderr
    assert log.read() == (log.read()[0], [])
    assert _names(log) == [1]
