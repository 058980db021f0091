"""No root is needed: the procedure as an ordinary user, who has a kernel and an image already."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from vmtests import cache
from vmtests.errors import ExitCode
from vmtests.kernel import Kernel
from vmtests.record import KernelEntry, MemmapEntry, read
from vmtests.run.run import Run

#: nobody and nogroup, who own nothing.
NOBODY = 65534


@dataclass(frozen=True)
class User:
    """Who is not root, with a home and a cache.

    Args:
        home: holds all that is theirs.
        become: the words in front of a command that make it theirs.
    """

    home: Path
    become: tuple[str, ...]

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "vmtests"

    def start(self, *command: str | Path, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command as the user."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home)}
        return subprocess.run(
            [*self.become, *command],
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


@contextmanager
def ordinary_user() -> Iterator[User]:
    """Yield a user with an empty home that goes in the end: ourselves, or nobody if we are root."""
    # The path of a socket in it must be short.
    with tempfile.TemporaryDirectory(prefix="vmt-", dir="/var/tmp") as home:
        become: tuple[str, ...] = ()
        if os.getuid() == 0:
            os.chown(home, NOBODY, NOBODY)
            become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")
        user = User(Path(home), become)
        tried = user.start(sys.executable, "-c", "import vmtests.cases", seconds=60)
        if tried.returncode != 0:
            pytest.skip(f"nobody but root can read this installation: {tried.stderr.strip().splitlines()[-1]}")
        yield user


def lend(user: User, kernel: Kernel) -> None:
    """Give the user's cache what the procedure needs of ours: by hard links where that can be done."""
    ours = cache.root()
    folders = [ours / "configs", ours / "images", ours / "packages", ours / "kernels" / kernel.key]
    files = [file for folder in folders for file in folder.rglob("*") if "objects" not in file.relative_to(ours).parts]
    for file in [*files, *(ours / "sources").glob("*.json")]:
        if file.is_file() and not file.name.endswith(".lock"):
            there = user.cache / file.relative_to(ours)
            there.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, there)
            except OSError:  # another file system, or a file that is not ours to link
                shutil.copy(file, there)
    if user.become:
        for folder in [user.home, *user.home.rglob("*")]:
            if folder.is_dir():
                os.chown(folder, NOBODY, NOBODY)


@pytest.mark.full
def test_as_an_ordinary_user(run: Run) -> None:
    """Boot, hot-plug, namespace, rebinds and every struct page; nothing is built, and nothing is left behind."""
    kernel = run.kernel("base")
    assert run.image(kernel).path.exists()
    with ordinary_user() as user:
        lend(user, kernel)
        done = user.start(
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "vmtests.cases.test_rebind"),
            *("-k", "test_rebind", "--kernel", "base", "--pmem-size", "4G", "--rebinds", "2", "--record", "out"),
            seconds=600,
        )
        assert done.returncode == ExitCode.PASSED, done.stdout + done.stderr
        record = read(user.home / "out")
        assert [entry.build_seconds for entry in record.entries(KernelEntry)] == [None]
        assert [entry.bind_index for entry in record.entries(MemmapEntry)] == [0, 2, 3]
        assert all(entry.pages_checked and not entry.mismatches for entry in record.entries(MemmapEntry))
        if user.become:
            assert {path.stat().st_uid for path in (user.home / "out").rglob("*")} == {NOBODY}
        assert not [path for path in (user.cache / "guests").iterdir() if path.is_dir()]
        assert not [path for path in (user.home / "vmtests").iterdir() if path.is_dir()]
