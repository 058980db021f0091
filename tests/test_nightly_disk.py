"""The disk budget: kept as a night begins and before each of its cells; what is in use is never freed, and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fake_cell import FILLED
from tests.nightly_rig import Rig
from tests.test_cache import make
from vmtests import cache
from vmtests.errors import ExitCode, HostFailure
from vmtests.nightly import disk
from vmtests.nightly import night as nights

pytestmark = pytest.mark.usefixtures("private_cache")

MIB = 1 << 20
#: Of a night: room for its results and what one cell leaves in the cache, and not for more.
BUDGET = FILLED + 5 * MIB


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder of all nights, which has none."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def write(path: Path, size: int = MIB) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def keep_to(budget: int, results: Path, *names: str) -> list[str]:
    """Keep to a budget by these nights, and return what has gone."""
    said: list[str] = []
    disk.keep_to(budget, results, [results / "nights" / name for name in names], said.append)
    return [line.rpartition("removed ")[2] for line in said]


def test_nights_go_before_caches_and_the_oldest_first(results: Path) -> None:
    make("old", age=2000)
    make("new", age=1000)
    for name in ("1", "2", "tonight"):
        write(results / "nights" / name / "record")
    history = write(results / "history/samples")
    assert keep_to(7 * MIB, results, "1", "2") == []
    assert keep_to(5 * MIB, results, "1", "2") == ["1"]
    assert keep_to(3 * MIB + MIB // 2, results, "1", "2") == ["2", "kernels/old"]
    assert history.exists()
    assert (results / "nights/tonight").exists()
    assert cache.find("kernels", "new") is not None


def test_what_is_in_use_stays(results: Path) -> None:
    """By this process, or for ever; the message has the figures and the rule."""
    used = make("used")
    cache.hold(used)
    remote = write(cache.root() / "remotes/pack")
    with pytest.raises(HostFailure, match=r"2\.0 MiB when all that .* the disk budget is 1\.0 MiB: raise `disk`"):
        keep_to(MIB, results)
    assert used.exists()
    assert remote.exists()


def test_what_entries_share_goes_with_the_last(results: Path) -> None:
    """The first one alone would free nothing."""
    source = make("source", age=2000)
    other = make("other", size=1, age=1000)
    (other / "shared").hardlink_to(source / "bzImage")
    assert keep_to(3 * MIB // 4, results) == ["kernels/source", "kernels/other"]


def test_the_rest_of_a_dead_build_goes(results: Path) -> None:
    """It may be gigabytes, and is no entry."""
    write(cache.root() / "kernels/.dead.1.tmp/vmlinux")
    assert keep_to(MIB // 2, results) == ["kernels/.dead.1.tmp"]


def test_no_look_where_the_whole_disk_fits(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "bytes_of", lambda folder: pytest.fail(f"looked at {folder}"))
    assert keep_to(1 << 60, results) == []


def test_a_host_without_results(results: Path) -> None:
    """Another one than that which the night began on: its caches count."""
    make("old")
    assert keep_to(MIB // 2, results / "elsewhere", "1") == ["kernels/old"]


def test_the_nights_of_another_version_may_go(results: Path) -> None:
    """Nothing else can be made of their plans; what is no night is left alone."""
    for name in ("2026-11-27.10", "2026-11-27.9", "2026-11-27", "2026-11-03"):
        write(results / "nights" / name / "plan.json").write_text("{}")
    (results / "nights/2026-11-28").mkdir()
    assert nights.nights(results) == []
    assert [folder.name for folder in nights.folders(results)] == [
        "2026-11-03", "2026-11-27", "2026-11-27.9", "2026-11-27.10"
    ]  # fmt: skip


def test_cells_that_fill_the_cache(tmp_path: Path) -> None:
    """In the middle of a night: the night before goes, then the kernel of a cell that has ended, and all cells pass."""
    rig = Rig.make(tmp_path, ("fsdax", "dev"), ("devdax", "dev"), disk=f"{BUDGET}")
    rig.commit("begin")
    assert rig.night()[0] == 0
    first = rig.last
    write(first / "large", 6 * MIB)
    rig.host = {"fsdax-dev": "builds", "devdax-2m-dev": "builds"}
    code, out = rig.night()
    assert (code, out.count("quiet, 2 of 2 cells passed")) == (0, 1)
    [said] = rig.last.glob("job-*/test-results/*/disk.txt")
    assert said.parent.name == "cells-2-mine-devdax-2m-dev-icount"
    assert said.read_text() == f"the disk budget is 20.0 MiB: removed {first.name}\n"
    assert not first.exists()
    assert len(list((tmp_path / "cache/vmtests/kernels").iterdir())) == 4, "a kernel of each, and their locks"
    rig.broken = "runner"  # no cell looks
    assert rig.night()[0] == ExitCode.HOST_FAILED
    assert len(list((tmp_path / "cache/vmtests/kernels").glob("[!.]*"))) == 1


def test_cells_that_the_disk_has_no_room_for(tmp_path: Path) -> None:
    """What is in use exceeds the budget in the middle of a night: the host's fault, in the mail, and no kernel's."""
    rig = Rig.make(
        tmp_path, ("fsdax", "dev"), ("devdax", "dev"), disk=f"{FILLED // MIB}M", host={"fsdax-dev": "fetches"}
    )
    rig.commit("begin")
    code, out = rig.night()
    assert code == ExitCode.HOST_FAILED
    assert "red, 1 of 2 cells passed, 1 not run to the end by this host; 0 new" in out
    assert f"mine-devdax-2m-dev-icount: host-failed: {tmp_path}/cache/vmtests and {rig.results} take 15." in out
    assert "and the disk budget is 15.0 MiB: raise `disk` in nightly.toml" in out
    [results] = rig.last.glob("job-*/results.json")
    assert [test["status"] for test in json.loads(results.read_text())["tests"]] == ["PASS", "ERROR", "ERROR"]
    code, out = rig.night()
    assert code == ExitCode.HOST_FAILED
    assert "red, 0 of 2 cells passed, 2 not run to the end by this host" in out, "a night that begins so tells it too"
