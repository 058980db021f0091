"""The cache: what is in use is not freed, what is freed is what was not used for longest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmtests import cache
from vmtests.cli import main
from vmtests.errors import ExitCode

USER = """
import sys
from vmtests import cache
cache.entry("kernels", "used", lambda folder: None)
print(flush=True)
sys.stdin.read()
"""


pytestmark = pytest.mark.usefixtures("private_cache")


def make(key: str, *, size: int = 1 << 20, age: float = 0.0) -> Path:
    """Let another process make an entry, and forget it."""
    path = cache.root() / "kernels" / key
    path.mkdir(parents=True)
    (path / "bzImage").write_bytes(b"x" * size)
    path.with_name(f".{key}.lock").touch()
    used = path.stat().st_mtime - age
    os.utime(path, (used, used))
    return path


def test_use_is_noted_and_protects() -> None:
    path = make("one", age=3600)
    [before] = cache.entries()
    assert cache.entry("kernels", "one", lambda _: pytest.fail("made again")) == path
    [after] = cache.entries()
    assert (before.in_use, after.in_use) == (False, True)
    assert after.used > before.used
    assert not cache.free(after)
    assert path.is_dir()


def test_use_by_another_process_protects() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        user.stdout.readline()
        [entry] = cache.entries()
        assert entry.in_use
        assert not cache.free(entry)
        user.communicate()
    assert cache.free(entry)
    assert not entry.path.exists()


def test_an_entry_that_is_being_made_again_is_not_freed() -> None:
    path = make("one")
    [entry] = cache.entries()
    with cache.locked(path.with_name(".one.lock")):
        assert not cache.free(entry)


def test_removing_ones_own() -> None:
    """Nothing of it stays, not even its lock."""
    path = cache.entry("logs", "mine", lambda folder: (folder / "console.log").touch())
    assert [entry.in_use for entry in cache.entries()] == [True]
    cache.remove(path)
    assert list(path.parent.iterdir()) == []
    assert cache.entries() == []


def test_choice() -> None:
    for number in range(4):
        make(f"{number}", size=10 << 20, age=number * 1000)
    entries = cache.entries()
    now = entries[0].used
    total = sum(entry.size_bytes for entry in entries)

    def chosen(age: float | None, size: int | None) -> list[str]:
        return [entry.path.name for entry in cache.choose(entries, now, age, size)]

    assert chosen(1500, None) == ["3", "2"]
    assert chosen(None, total - 1) == ["3"]
    assert chosen(None, 0) == ["3", "2", "1", "0"]
    assert chosen(2500, total // 2) == ["3", "2"]


def test_the_command_shows_before_it_frees(capsys: pytest.CaptureFixture[str]) -> None:
    path = make("old", age=40 * 86400)
    assert main(["clean"]) == ExitCode.PASSED
    assert "old, used 40 d ago" in capsys.readouterr().out
    assert main(["clean", "--older-than", "30d"]) == ExitCode.PASSED
    assert "would be freed: add --yes" in capsys.readouterr().out
    assert path.exists()
    assert main(["clean", "--older-than", "30d", "--yes"]) == ExitCode.PASSED
    assert "freed" in capsys.readouterr().out
    assert not path.exists()


@pytest.mark.parametrize("arguments", [["--older-than", "soon"], ["--size", "much"], ["--yes"], ["guest-none"]])
def test_usage(arguments: list[str]) -> None:
    assert main(["clean", *arguments]) == ExitCode.USAGE


def test_what_dead_makers_left_goes() -> None:
    """Of whatever kind; what is being made stays."""
    rests = [cache.root() / kind / f".key.{pid}.tmp" for kind, pid in (("kernels", 1), ("snapshots", 2), ("new", 3))]
    for rest in rests:
        (rest / "deep").mkdir(parents=True)
    there = make("there")
    with cache.locked(rests[0].with_name(".key.lock")):
        assert set(cache.sweep()) == set(rests[1:])
        assert rests[0].is_dir()
    assert cache.sweep() == rests[:1]
    assert not any(rest.exists() for rest in rests)
    assert there.is_dir()


def test_a_file_that_entries_share_counts_in_parts() -> None:
    one = make("one")
    [alone] = cache.entries()
    cache.entry("sources", "other", lambda to: (to / "shared").hardlink_to(one / "bzImage"))
    assert sum(entry.size_bytes for entry in cache.entries()) == alone.size_bytes
