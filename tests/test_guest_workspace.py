"""The private folders: made, kept while their owner lives, and swept when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vmtests import cache
from vmtests.errors import HostFailure
from vmtests.guest import Workspace, size, workspace

OWNER = """
import sys
from vmtests.guest import Workspace
with Workspace() as workspace:
    workspace.sparse("ram", 1 << 20)
    print(workspace.id, flush=True)
    sys.stdin.read()
"""

# Dies while it makes the folder, before there is a sign of life.
HALF = """
import fcntl, os, signal
from vmtests.guest import Workspace
fcntl.flock = lambda handle, how: os.kill(os.getpid(), signal.SIGKILL) if "alive" in handle.name else None
Workspace()
"""


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def short_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's own folders are too long for sockets; here it does not matter."""
    monkeypatch.setattr(workspace, "SOCKET_PATH_BYTES", 1000)


def owner() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_made_and_removed() -> None:
    with Workspace() as made:
        assert [folder.stat().st_mode & 0o777 for folder in (made.files, made.sockets)] == [0o700, 0o700]
        assert len(str(made.socket("drgn"))) <= workspace.SOCKET_PATH_BYTES
        ram = made.sparse("ram", size.GIB)
        assert (ram.stat().st_size, ram.stat().st_blocks) == (size.GIB, 0)
        assert ram.parent.parent == cache.root() / "guests"
    assert not made.files.exists()
    assert not made.sockets.exists()


def test_removed_after_an_exception() -> None:
    with pytest.raises(KeyboardInterrupt), Workspace() as made:
        made.sparse("ram", 4096)
        raise KeyboardInterrupt
    assert not made.files.exists()


def test_sweep_takes_the_dead_only() -> None:
    living, living_id = owner()
    dead, dead_id = owner()
    end(dead)
    with Workspace() as own:
        swept = Workspace.sweep()
        assert {folder.name for folder in swept} == {dead_id}
        assert len(swept) == 2
        assert own.files.exists()
    assert [folder.name for folder in workspace.guests().iterdir() if folder.is_dir()] == [living_id]
    end(living)
    Workspace.sweep()
    assert not [folder for folder in workspace.guests().iterdir() if folder.is_dir()]


def test_sweep_takes_half_made_ones() -> None:
    subprocess.run([sys.executable, "-c", HALF], check=False)
    assert len(Workspace.sweep()) == 1


def test_sweep_kills_who_outlived_the_owner(tmp_path: Path) -> None:
    dead, dead_id = owner()
    end(dead)
    script = tmp_path / "qemu-system-fake"
    script.symlink_to("/bin/sleep")
    orphan = subprocess.Popen([script, "100", str(workspace.guests() / dead_id / "ram")])
    other = subprocess.Popen([script, "100", str(workspace.guests() / f"{dead_id}0" / "ram")])
    try:
        # sleep adds its arguments up and refuses a path, so let it be one that shows them and waits.
        Workspace.sweep()
        assert orphan.wait(5) != 0
    finally:
        for process in (orphan, other):
            process.kill()
            process.wait()


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmtests").mkdir(mode=0o777)
    (tmp_path / "vmtests").chmod(0o777)
    with pytest.raises(HostFailure, match=r"must be a folder of our own with mode 0700, but is drwxrwxrwx"):
        workspace._private(tmp_path / "vmtests")


def test_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmtests").symlink_to(tmp_path)
    with pytest.raises(HostFailure, match="must be a folder of our own"):
        workspace._private(tmp_path / "vmtests")


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda _: workspace.shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with Workspace() as made, pytest.raises(HostFailure, match=r"file ram needs up to 2 GiB in .* 0 MiB are free"):
        made.sparse("ram", 2 * size.GIB)


def test_long_runtime_folder_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert str(workspace.sockets()).startswith("/tmp/vmtests-")
