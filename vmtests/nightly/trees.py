"""The trees of a night: each ref becomes a commit, which the night keeps to. The user's trees are only read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vmtests import cache, kernel
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel.commits import commit_of
from vmtests.kernel.git import git
from vmtests.nightly.config import Tree

#: How long fetching a remote may take, in seconds; the first time it is a whole clone.
FETCH_SECONDS = 7200.0

#: So many commits between two nights are listed; of more, only the number.
LISTED = 20


@dataclass(frozen=True)
class Resolved:
    """A tree and what its ref was when the night began; `folder` and `commit` are None for a recipe."""

    name: str
    title: str
    folder: Path | None = None
    commit: str | None = None

    @property
    def option(self) -> str:
        """What --kernel is given, for a kernel that has the tree's name."""
        return self.option_named(self.name)

    def option_named(self, kernel: str) -> str:
        """What --kernel is given for a kernel of this name."""
        return kernel if self.commit is None else f"{kernel}={self.folder}@{self.commit}"


def resolve(tree: Tree) -> Resolved:
    """Find out which commit a tree's ref is now; a remote is fetched into the cache.

    Raises:
        UsageError: there is no such tree or ref.
        HostFailure: the remote cannot be reached.
    """
    if tree.ref is None:
        if tree.name not in kernel.known():
            raise UsageError(f"tree {tree.name}: there is no such recipe; there are {', '.join(kernel.known())}")
        return Resolved(tree.name, f"the recipe {tree.name}")
    folder = _mirror(tree) if tree.remote is not None else tree.path
    assert folder is not None
    if not folder.is_dir():
        raise UsageError(f"tree {tree.name}: there is no folder {folder}")
    commit = commit_of(folder, _ref(tree))
    if commit is None:
        raise UsageError(f"tree {tree.name}: {folder} is no git tree with a {tree.ref}: name a branch, tag or commit")
    return Resolved(tree.name, f"{tree.remote or folder} {tree.ref}", folder, commit)


def between(folder: Path | None, old: str | None, new: str | None) -> list[str]:
    """Return the commits after `old` up to `new`, a line each, as far as the tree knows them."""
    if folder is None or old is None or new is None or old == new:
        return []
    found = git("log", "--oneline", "--abbrev=12", "--no-decorate", f"{old}..{new}", cwd=folder, check=False)
    lines = found.stdout.splitlines() if found.returncode == 0 else []
    return [*lines[:LISTED], *([f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else [])]


def _ref(tree: Tree) -> str:
    return f"refs/vmtests/{tree.name}" if tree.remote is not None else str(tree.ref)


def _mirror(tree: Tree) -> Path:
    """Fetch the ref of a remote into a bare repository of our own and return that."""
    remote = str(tree.remote)
    folder = cache.root() / "remotes" / hashlib.sha256(remote.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    depth = [f"--depth={tree.depth}"] if tree.depth else []
    with cache.locked(folder / "vmtests.lock"):
        git("init", "--quiet", "--bare", "--template=", folder, cwd=folder)
        what = f"tree {tree.name}: fetching {tree.ref} of {remote} failed"
        try:
            git(
                "fetch", "--quiet", "--force", "--no-tags", *depth, "--", remote, f"+{tree.ref}:{_ref(tree)}",
                cwd=folder, seconds=FETCH_SECONDS, what=what,
            )  # fmt: skip
        except HostFailure as error:
            if "couldn't find remote ref" in error.output:
                raise UsageError(f"tree {tree.name}: {remote} has no {tree.ref}: name a branch or tag") from None
            raise
    return folder
