"""A nightly with the real avocado and the real runner, whose cells are a program that only writes a record: fake_cell.

As a program it is the nightly with such cells, and without the report's page, which takes seconds to draw.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmtests.kernel.git import git
from vmtests.nightly import __main__ as command
from vmtests.nightly import job, matrix
from vmtests.report import formats

_CHECKOUT = Path(__file__).parents[1]
_BROKEN = Path(__file__).with_name("broken_avocado")
_NAMESPACE = '[[namespace]]\nmode = "{}"\nmap = "{}"\n'
_TOML = """\
deadline = "{deadline}"
disk = "{disk}"
rebinds = 3
clocks = ["icount"]

[reference]
name = "base"
recipe = true

[[tree]]
name = "mine"
path = "tree"
ref = "main"

"""


@dataclass
class Rig:
    """The nightly's folder, its tree, what the host does to its cells, and what of avocado is broken."""

    folder: Path
    host: dict[str, str] = field(default_factory=dict)
    broken: str = ""

    @classmethod
    def make(
        cls,
        folder: Path,
        *kinds: tuple[str, str],
        deadline: str = "2m",
        disk: str = "900G",
        more: str = "",
        host: dict[str, str] | None = None,
        broken: str = "",
    ) -> Rig:
        """Return a rig for these kinds of namespace: (mode, map).

        Args:
            folder: for all its files.
            kinds: of namespaces; one of fsdax by default.
            deadline: of a night.
            disk: the budget.
            more: lines at the end of nightly.toml.
            host: what the host does to cells.
            broken: "runner", "spawner" or "leaving", see broken_avocado.
        """
        rig = cls(folder, host or {}, broken)
        for path in (rig.tree, rig.marks, folder / "cache"):
            path.mkdir()
        git("init", "--quiet", "--initial-branch=main", cwd=rig.tree)
        spaces = "".join(_NAMESPACE.format(*kind) for kind in kinds or [("fsdax", "dev")])
        rig.config.write_text(_TOML.format(deadline=deadline, disk=disk) + spaces + more)
        return rig

    @property
    def config(self) -> Path:
        """nightly.toml."""
        return self.folder / "nightly.toml"

    @property
    def tree(self) -> Path:
        """The kernel's."""
        return self.folder / "tree"

    @property
    def marks(self) -> Path:
        """Where cells say that they were there."""
        return self.folder / "marks"

    @property
    def results(self) -> Path:
        """The nightly's own."""
        return self.folder / "nightly"

    def commit(self, subject: str, **behaviour: Any) -> str:
        """Commit what the kernel does from here on, and return the commit."""
        (self.tree / "behaviour.json").write_text(json.dumps(behaviour))
        git("add", "--all", cwd=self.tree)
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        git(*identity, "commit", "--quiet", "--allow-empty", f"--message={subject}", cwd=self.tree)
        return git("rev-parse", "HEAD", cwd=self.tree).stdout.strip()

    def start(self) -> subprocess.Popen[str]:
        """Start a night."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_CHECKOUT), *([str(_BROKEN)] if self.broken else [])]),
            "BROKEN": self.broken,
            "FAKE_HOST": json.dumps(self.host),
            "FAKE_MARKS": str(self.marks),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        command: list[str | Path] = [sys.executable, "-m", "tests.nightly_rig", self.config, "--results", self.results]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def night(self) -> tuple[int, str]:
        """Run a night and return its exit code and what it mails."""
        process = self.start()
        out, err = process.communicate(timeout=120)
        print(err)
        return process.returncode, out

    def wait_for_mark(self, cell: str) -> int:
        """Wait until a cell says that it runs, and return its process."""
        deadline = time.monotonic() + 60
        while not (self.marks / cell).exists():
            assert time.monotonic() < deadline, f"{cell} does not run"
            time.sleep(0.05)
        return int((self.marks / cell).read_text())

    @property
    def last(self) -> Path:
        """The folder of the last night."""
        return max((self.results / "nights").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def main() -> int:
    """Run the nightly with quick cells."""
    matrix.TESTS = (sys.executable, "-m", "tests.fake_cell")
    formats.render = lambda *_, **__: "the report"
    job.LATER = job.LATER[:1]
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
