"""The private folders: made, kept while their owner lives, and swept when it does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmtests import cache
from vmtests.errors import HostFailure
from vmtests.guest import Workspace, size, workspace

Usage = namedtuple("Usage", "total used free")

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
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # pytest's own folders are too long for sockets.
    with tempfile.TemporaryDirectory(prefix="vmt-") as runtime:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield


def owner() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[Any]) -> None:
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
    (workspace.guests() / "no-sign-of-life-at-all").mkdir()
    assert len(Workspace.sweep()) == 1


def test_sweep_kills_who_outlived_the_owner() -> None:
    dead, dead_id = owner()
    end(dead)

    def start(folder: str) -> subprocess.Popen[bytes]:
        wait = "import time; time.sleep(100)"
        path = str(workspace.guests() / folder / "ram")
        return subprocess.Popen(["qemu-system-fake", "-c", wait, f"mem-path={path}"], executable=sys.executable)

    orphan, other = start(dead_id), start(f"{dead_id}0")
    try:
        Workspace.sweep()
        assert orphan.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        end(orphan)
        end(other)


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
    monkeypatch.setattr("vmtests.guest.workspace.shutil.disk_usage", lambda _: Usage(100, 90, 10))
    with Workspace() as made, pytest.raises(HostFailure, match=r"file ram needs up to 2 GiB in .* 0 MiB are free"):
        made.sparse("ram", 2 * size.GIB)


def test_long_runtime_folder_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert str(workspace.sockets()).startswith("/tmp/vmtests-")
