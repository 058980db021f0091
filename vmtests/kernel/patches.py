"""Patches: applied whole or not at all, with their context exactly as written."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vmtests.errors import HostFailure, UsageError
from vmtests.kernel.git import git


class ApplyFailure(HostFailure):
    """A patch does not fit the source; nothing was changed."""

    def __init__(self, message: str, *, patch: Patch, result: subprocess.CompletedProcess[str]) -> None:
        super().__init__(
            message, command=result.args, status=result.returncode, output=result.stdout, evidence=[patch.path]
        )
        self.patch = patch


@dataclass(frozen=True)
class Patch:
    """A patch file; `git format-patch`, `git diff` and `diff -u` all make one, paths stripped by one level."""

    name: str
    path: Path
    # Of the file's content.
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Return the patch in the file `path`; UsageError if it cannot be read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"the patch {path} cannot be read: {error.strerror}") from None
        return cls(path.name, path.resolve(), hashlib.sha256(content).hexdigest())

    def files(self) -> list[str]:
        """Return the paths in the tree that the patch names."""
        return sorted({hunk.file for hunk in _hunks(self.path.read_text(errors="replace"))})

    def to_json(self) -> dict[str, str]:
        """Return what the run record keeps of it."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class _Hunk:
    file: str
    # Counted from 1 in each file.
    number: int
    # Where it was in the file that it was made for.
    old_line: int
    header: str
    # Its line in the patch.
    line: int


def apply(patch: Patch, tree: Path, *, source: str) -> None:
    """Apply a patch to the tree; a changed file becomes a new one, so that hard links to the old one keep the old.

    Args:
        patch: it must apply exactly, but for the line numbers.
        tree: the top of a kernel tree.
        source: what the tree holds, for the message.

    Raises:
        ApplyFailure: it does not apply; nothing was changed.
    """
    result = _git_apply(patch, tree)
    if result.returncode == 0:
        return
    reasons = _reasons(patch, result.stdout)
    if _git_apply(patch, tree, "--reverse", "--check").returncode == 0:
        reasons.insert(0, "the source has this change already")
    raise ApplyFailure(
        f"the patch {patch.path} does not apply to {source}:\n    "
        + "\n    ".join(reasons)
        + "\n  make the patch fit this source, or choose another source or other patches in the kernel's recipe",
        patch=patch,
        result=result,
    )


def _git_apply(patch: Patch, tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # Inside somebody's repository `git apply` would take the paths as relative to its top.
    ceiling = {"GIT_CEILING_DIRECTORIES": str(tree.resolve().parent)}
    return git("apply", "--whitespace=nowarn", *options, patch.path, cwd=tree, env=ceiling, check=False)


def _reasons(patch: Patch, output: str) -> list[str]:
    """Turn what git says into the names of the hunks."""
    hunks = list(_hunks(patch.path.read_text(errors="replace")))
    reasons = []
    for file, line in re.findall(r"^error: patch failed: (.+):(\d+)$", output, re.MULTILINE):
        found = next((hunk for hunk in hunks if (hunk.file, hunk.old_line) == (file, int(line))), None)
        if found is not None:
            reasons.append(f"hunk {found.number} of {file} ({found.header}; line {found.line} of the patch)")
    reasons += re.findall(
        r"^error: (.+(?:No such file or directory|already exists in working directory|does not match index))$",
        output,
        re.MULTILINE,
    )
    return reasons or re.findall(r"^(?:error|fatal): (.+)$", output, re.MULTILINE)[:3]


def _hunks(text: str) -> Iterator[_Hunk]:
    file, number = "", 0
    for line, content in enumerate(text.splitlines(), 1):
        if names := re.match(r"(?:---|\+\+\+) (\S+)", content):
            if names[1] != "/dev/null":
                file, number = names[1].partition("/")[2], 0
        elif header := re.match(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@", content):
            number += 1
            yield _Hunk(file, number, int(header[1]), header[0], line)
