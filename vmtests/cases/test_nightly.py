"""Nights of a small tree: as it was, one commit that counts more, one that breaks a page, nothing new; several hosts.

The nightly is the real one, in a process of its own, with a cell of its matrix on real guests. What it says of each
night is what a person would be mailed.
"""

import getpass
import json
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from vmtests import cache, command
from vmtests.cases import history_repo
from vmtests.cases.history_repo import Change, History
from vmtests.errors import ExitCode
from vmtests.kernel.git import git
from vmtests.run.run import Run

CHANGES = (
    Change(
        "mm: look at the pgmap once more for each page",
        old="\tpage->zone_device_data = NULL;\n",
        new="\tif (READ_ONCE(pgmap->vmemmap_shift) > 64)\n\t\treturn;\n\tpage->zone_device_data = NULL;\n",
    ),
    Change(
        "mm: give one page of a million a reference",
        old="\t\tset_page_count(page, 0);\n\t\tbreak;\n",
        new="\t\tset_page_count(page, (pfn & 0xfffff) == 0x54321);\n\t\tbreak;\n",
    ),
)

CONFIG = """\
deadline = "2h"
disk = "500G"
pmem_size = "4G"
rebinds = 3
clocks = ["icount"]

[reference]
name = "frozen"
path = "tree"
ref = "{first}"

[[tree]]
name = "mine"
path = "tree"
ref = "main"

[[namespace]]
mode = "fsdax"
map = "dev"
"""


@dataclass(frozen=True)
class Nightly:
    """A nightly of the small tree; its results lie in `results`."""

    folder: Path
    history: History

    @property
    def results(self) -> Path:
        """Of all nights."""
        return self.folder / "results"

    def night(self, commit: int, run: Run) -> tuple[int, str]:
        """Let the tree be at a commit, run a night, and return its exit code and its mail."""
        git("update-ref", "refs/heads/main", self.history.commits[commit], cwd=self.history.folder)
        return night(self.folder / "nightly.toml", self.results, run)


def night(matrix: Path, results: Path, run: Run) -> tuple[int, str]:
    """Run a night and return its exit code and its mail."""
    argv = [sys.executable, "-m", "vmtests.nightly", str(matrix), "--results", str(results)]
    with run.progress.task("a night"):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=7200, check=False)
    run.progress.say(f"{done.stderr[-1500:]}{done.stdout}")
    return done.returncode, done.stdout


@pytest.fixture
def nightly(tmp_path: Path) -> Nightly:
    """A nightly at the first commit, and no night so far."""
    history = history_repo.make(tmp_path / "tree", CHANGES)
    (tmp_path / "nightly.toml").write_text(CONFIG.format(first=history.commits[0]))
    return Nightly(tmp_path, history)


@pytest.mark.full
def test_one_alert_for_each_change(run: Run, nightly: Nightly) -> None:
    """Quiet; red with the count; red with the page; then red still, and everything is known."""
    begin, counts, breaks = nightly.history.commits

    code, mail = nightly.night(0, run)
    assert code == ExitCode.PASSED
    assert mail.count("\n") == 1
    assert "quiet, 1 of 1 cells passed" in mail

    code, mail = nightly.night(1, run)
    assert code == ExitCode.KERNEL_FAILED
    assert "red, 1 of 1 cells passed; 1 new, 0 known, 0 fixed" in mail
    assert "NEW mine: fsdax-dev rebinds: more, +" in mail or "NEW mine: fsdax-dev first bind: more, +" in mail
    assert f"  between: {begin}\n  and:     {counts}\n    {counts[:12]} {CHANGES[0].subject}\n" in mail
    tree = nightly.history.folder
    assert f"pytest vmtests/ -k rebind --kernel before={tree}@{begin} --kernel mine={tree}@{counts} --mode" in mail

    code, mail = nightly.night(2, run)
    assert code == ExitCode.KERNEL_FAILED
    assert "red, 0 of 1 cells passed, 1 failed by the kernel; 1 new, 1 known, 0 fixed" in mail
    assert "NEW mine: struct pages are wrong (mine-fsdax-dev-icount)\n" in mail
    assert "1 fields of struct pages wrong; _refcount at pfn 0x" in mail
    assert f"  and:     {breaks}\n    {breaks[:12]} {CHANGES[1].subject}\n" in mail

    code, mail = nightly.night(2, run)
    assert code == ExitCode.KERNEL_FAILED
    assert "0 new, 2 known, 0 fixed" in mail
    assert "NEW" not in mail
    assert (nightly.results / "latest" / "index.html").exists()

    code, mail = nightly.night(0, run)
    assert code == ExitCode.PASSED
    assert "green, 1 of 1 cells passed; 0 new, 0 known, 2 fixed" in mail


SMALL = """\
deadline = "2h"
disk = "500G"
pmem_size = "4G"
rebinds = 1
clocks = ["auto"]

[reference]
name = "base"
recipe = true

[[tree]]
name = "patched"
recipe = true

[[namespace]]
mode = "fsdax"
map = "dev"
"""

HOSTS = """
[[namespace]]
mode = "devdax"
map = "dev"

[avocado]
"run.spawner" = "remote"
"run.max_parallel_tasks" = 2
"spawner.remote.slots" = ["{folder}/one.json", "{folder}/two.json"]
"spawner.remote.setup_hook" = "export PATH={path}:$PATH XDG_CACHE_HOME={cache}"
"run.status_server_auto" = false
"run.status_server_listen" = "127.0.0.1:{here}"
"run.status_server_uri" = "127.0.0.1:{there}"
"""

SSHD = """\
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PidFile none
PasswordAuthentication no
StrictModes no
"""


@contextmanager
def ssh_server(folder: Path) -> Iterator[int]:
    """Let an SSH server of ours listen on this host, for this user and a key in the folder; yield its port."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if program is None or find_spec("avocado_spawner_remote") is None:
        pytest.skip("no sshd, or no remote spawner: install openssh-server, and vmtests with its extra [hosts]")
    command.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], seconds=60)
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    port = free_port()
    options = ["-D", "-e", "-f", str(folder / "sshd_config"), "-o", "ListenAddress=127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command.tied("TERM", [program, *options]), stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert select.select([server.stderr], [], [], 30)[0], "sshd says nothing for 30 s"
            assert "Server listening" in (said := server.stderr.readline()), said
            yield port
        finally:
            server.terminate()


def free_port() -> int:
    """Return a TCP port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.full
def test_several_hosts(run: Run, tmp_path: Path) -> None:
    """Two cells by ssh on two slots, side by side: green, with both records here. A host that is down: red.

    What they report comes through ssh too.
    """
    here, there = free_port(), free_port()
    path, cached = Path(sys.executable).parent, cache.root().parent
    hosts = HOSTS.format(folder=tmp_path, path=path, cache=cached, here=here, there=there)
    (tmp_path / "hosts.toml").write_text(SMALL + hosts)
    with ssh_server(tmp_path) as port:
        slot = {"client": "ssh", "host": "127.0.0.1", "port": port, "username": getpass.getuser(), "password": ""}
        slot |= {"prompt": r"[#$%>]\s*$", "identity_file": str(tmp_path / "key")}
        slot |= {"extra_cmdline": f"-R {there}:127.0.0.1:{here}"}
        for name in ("one", "two"):
            (tmp_path / f"{name}.json").write_text(json.dumps(slot))
        code, mail = night(tmp_path / "hosts.toml", tmp_path / "results", run)
        assert (code, mail.count("quiet, 2 of 2 cells passed")) == (ExitCode.PASSED, 1)
        records = tmp_path.glob("results/latest/job-*/test-results/*/record/run.json")
        assert len(list(records)) == 2

        (tmp_path / "two.json").write_text(json.dumps(slot | {"port": free_port()}))
        code, mail = night(tmp_path / "hosts.toml", tmp_path / "results", run)
        assert code == ExitCode.HOST_FAILED
        assert "red, 0 of 2 cells passed, 2 lost" in mail
        assert "connection refused" in (tmp_path / "results/latest/avocado.txt").read_text()


@pytest.mark.full
def test_the_steps_of_the_workflow(run: Run, tmp_path: Path) -> None:
    """In a fresh clone, in their order, as .github/workflows/nightly.yml has them; with the kernels of our cache."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        pytest.skip("the steps of the workflow run in a clone, and this is no checkout")
    clone, summary = tmp_path / "clone", tmp_path / "summary.md"
    git("clone", "--quiet", checkout, clone, cwd=tmp_path)
    (clone / "cache").symlink_to(cache.root().parent)
    (tmp_path / "small.toml").write_text(SMALL)
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"} | {
        "CONFIG": str(tmp_path / "small.toml"),
        "CACHE_SIZE": "500G",  # what is freed of ours would be missed
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    for step in ("install", "night", "tell"):
        with run.progress.task(f"nightly/ci {step}"):
            done = subprocess.run(
                ["nightly/ci", step],
                cwd=clone,
                env=environment,
                capture_output=True,
                text=True,
                timeout=3600,
                check=False,
            )
        assert done.returncode == 0, f"{step}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "quiet, 1 of 1 cells passed" in summary.read_text()
    assert "quiet, 1 of 1 cells passed" in (clone / "mail.txt").read_text()
    assert len(list((clone / "results/latest").glob("job-*/results.*"))) >= 4
