"""The gate, on real jobs of avocado: whatever keeps a cell from running turns the night red."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.nightly_rig import Rig
from vmtests.errors import ExitCode
from vmtests.nightly import config
from vmtests.nightly import night as nights


def test_a_quiet_night_is_one_line(tmp_path: Path) -> None:
    rig = Rig.make(tmp_path, ("fsdax", "dev"), ("devdax", "dev"))
    rig.commit("begin")
    code, out = rig.night()
    assert code == 0, out
    assert out == f"nightly {rig.last.name}: quiet, 2 of 2 cells passed\n"
    [job] = rig.last.glob("job-*/")
    assert json.loads((job / "results.json").read_text())["pass"] == 2
    index = (rig.last / "index.html").read_text()
    for kind in ("fsdax-dev", "devdax-2m-dev"):
        assert f'<a href="reports/mine-{kind}-icount.html">report</a>' in index
        assert (rig.last / f"reports/mine-{kind}-icount.html").exists()
    for name in ("results.json", "results.xml", "results.tap"):
        assert f'<a href="{job.name}/{name}">' in index


def test_a_killed_cell_is_run_again(tmp_path: Path) -> None:
    """Its runner is killed by SIGKILL: avocado 113 alone would wait for its result for ever."""
    rig = Rig.make(tmp_path, host={"fsdax-dev": "hangs-once"})
    rig.commit("begin")
    process = rig.start()
    cell = psutil.Process(rig.wait_for_mark("fsdax-dev"))
    # By its module, or by its script where that is in PATH.
    names = ("vmtests.nightly.runner", "avocado-runner-vmtests-cell")
    runner = next(one for one in cell.parents() if any(word.endswith(names) for word in one.cmdline()))
    runner.kill()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "1 of 1 cells passed, 1 at the second try" in out
    assert "mine-fsdax-dev-icount: settled by the second try: this host failed the first one\n" in out
    psutil.wait_procs([cell], timeout=10)
    assert not cell.is_running()
    [results] = rig.last.glob("job-*/results.json")
    assert [test["status"] for test in json.loads(results.read_text())["tests"]] == ["ERROR", "PASS"]


def test_a_cell_that_its_host_always_fails(tmp_path: Path) -> None:
    """Retried once, shown, and never called a failure of the kernel; the other cell is not run again."""
    rig = Rig.make(tmp_path, ("fsdax", "dev"), ("devdax", "dev"), host={"fsdax-dev": "fails"})
    rig.commit("begin")
    code, out = rig.night()
    assert code == ExitCode.HOST_FAILED
    assert "red, 1 of 2 cells passed, 1 not run to the end by this host; 0 new" in out
    assert "mine-fsdax-dev-icount: host-failed" in out
    assert "QEMU died by itself" in out
    assert [
        len(list(rig.last.glob(f"job-*/test-results/*-{kind}-dev-icount/cell.json"))) for kind in ("fsdax", "2m")
    ] == [2, 1]


@pytest.mark.parametrize("how", ["runner", "spawner"])
def test_nothing_could_start(tmp_path: Path, how: str) -> None:
    """The runner's module cannot be imported where cells run; the spawner starts no process at all."""
    more = '[avocado]\n"run.spawner" = "broken"\n' if how == "spawner" else ""
    rig = Rig.make(tmp_path, more=more, broken=how)
    rig.commit("begin")
    code, out = rig.night()
    assert code == ExitCode.HOST_FAILED
    assert "red, 0 of 1 cells passed, 1 lost" in out
    assert "mine-fsdax-dev-icount: lost: it could not be started, or its runner was killed: see avocado.txt" in out
    if how == "spawner":  # what avocado makes of it
        [results] = rig.last.glob("job-*/results.json")
        assert json.loads(results.read_text())["skip"] == 1
        assert "exit code 0" in (rig.last / "avocado.txt").read_text()


def test_a_tree_that_does_not_build(tmp_path: Path) -> None:
    """A verdict of its own, and an alert with the commits."""
    rig = Rig.make(tmp_path)
    good = rig.commit("begin")
    assert rig.night()[0] == 0
    bad = rig.commit("mm: break the build", build="mm/mm_init.c:7:1: error: expected ';'")
    code, out = rig.night()
    assert code == ExitCode.KERNEL_FAILED
    assert "1 with a tree that does not build; 1 new" in out
    assert "NEW mine: the tree does not build (mine-fsdax-dev-icount)\n" in out
    assert "expected ';'" in out
    assert f"between: {good}\n  and:     {bad}\n    {bad[:12]} mm: break the build\n" in out
    assert len(list(rig.last.glob("job-*/test-results/cells-*"))) == 1
    assert not list(rig.last.glob("job-*/test-results/retry-*"))


def test_a_complaint_in_dmesg(tmp_path: Path) -> None:
    """It fails its cell, until it is listed with a reason."""
    line = "WARNING: possible circular locking dependency detected"
    rig = Rig.make(tmp_path)
    rig.commit("begin", dmesg=f"[    1.5] {line}\n[    1.6] fine")
    code, out = rig.night()
    assert code == ExitCode.KERNEL_FAILED
    assert "NEW mine: the kernel complains of itself (mine-fsdax-dev-icount)\n" in out
    assert f"  mine-fsdax-dev-icount: mine: [    1.5] {line}\n" in out

    ignored = "[[ignore]]\nline = 'possible circular'\nreason = 'reported upstream, not ours'\n"
    rig.config.write_text(rig.config.read_text() + ignored)
    code, out = rig.night()
    assert code == 0
    assert "1 of 1 cells passed" in out
    assert "fixed, told" in out


def test_a_night_that_was_killed_goes_on(tmp_path: Path) -> None:
    """SIGKILL of the job: nothing of it runs on, and the next call runs only what is left."""
    more = '[avocado]\n"run.spawner" = "leaving"\n'
    kinds = ("fsdax", "dev"), ("devdax", "dev")
    rig = Rig.make(tmp_path, *kinds, more=more, host={"devdax-2m-dev": "hangs-once"}, broken="leaving")
    rig.commit("begin")
    process = rig.start()
    cell = psutil.Process(rig.wait_for_mark("devdax-2m-dev"))
    tree = psutil.Process(process.pid).children(recursive=True)
    assert cell in tree
    assert [one.name() for one in tree].count("sleep") == 2
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert not alive
    rig.commit("too late for this night")
    code, out = rig.night()
    assert code == 0
    assert "2 of 2 cells passed" in out
    assert len(list((rig.results / "nights").iterdir())) == 1
    assert [
        len(list(rig.last.glob(f"job-*/test-results/*-{kind}-dev-icount/cell.json"))) for kind in ("fsdax", "2m")
    ] == [1, 1]
    assert nights.go_on(rig.results, config.read(rig.config)) is None, "the next one is a new night"


def test_avocado_is_killed_with_the_job(tmp_path: Path) -> None:
    """By SIGKILL, so that nobody is left to end the cells: each runner ends by itself, and its tests with it."""
    rig = Rig.make(tmp_path, host={"fsdax-dev": "hangs-once"})
    rig.commit("begin")
    process = rig.start()
    rig.wait_for_mark("fsdax-dev")
    tree = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGSTOP)
    avocado = next(one for one in tree if "vmtests.nightly.suite" in one.cmdline())
    avocado.kill()
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert not alive


def test_the_deadline(tmp_path: Path) -> None:
    """A cell that would not end is ended, and the night with it."""
    rig = Rig.make(tmp_path, deadline="20s", host={"fsdax-dev": "hangs-once"})
    rig.commit("begin")
    code, out = rig.night()
    assert code == ExitCode.HOST_FAILED
    assert "the night's deadline ended it" in out
    for path in rig.last.glob("job-*/test-results/*/cell.json"):
        assert json.loads(path.read_text())["seconds"] < 25


def test_the_ref_that_is_not_there(tmp_path: Path) -> None:
    rig = Rig.make(tmp_path)
    code, out = rig.night()
    assert code == ExitCode.HOST_FAILED
    assert "0 of 1 cells passed, 1 not run to the end by this host" in out
    assert f"tree mine: {rig.tree} is no git tree with a main" in out
