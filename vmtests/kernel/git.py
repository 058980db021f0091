"""Running git, by itself: no hooks, no helpers, nothing written to a repository that is only read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vmtests.command import require, run

# A hook, `git rebase --exec` and `git bisect run` leave these behind for the commands that they start.
_FORGET = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")

_SETTINGS = {
    # The user named the tree: that it belongs to somebody else is no surprise.
    "safe.directory": "*",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.splitIndex": "false",
    "core.untrackedCache": "false",
    "apply.ignoreWhitespace": "no",
    "gc.auto": "0",
    "checkout.workers": "0",
}

_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
    **{f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(_SETTINGS)},
    **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(_SETTINGS.values())},
}


def environment() -> dict[str, str]:
    """Return ours as git gets it, for a git that `git` cannot run."""
    return {**{name: value for name, value in os.environ.items() if name not in _FORGET}, "LC_ALL": "C", **_ENVIRONMENT}


def git(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    seconds: float = 600,
    stdin: bytes | None = None,
    check: bool = True,
    what: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run git in the folder `cwd`; see `command.run` for the rest."""
    forget = [f"--unset={name}" for name in _FORGET if name not in (env or {})]
    return run(
        ["env", *forget, require("git"), *arguments],
        cwd=cwd,
        env={**_ENVIRONMENT, **(env or {})},
        seconds=seconds,
        stdin=stdin,
        check=check,
        what=what,
    )
