"""A small git history of kernel source: Debian's as the first commit, and a commit for each patch on top.

Stands in for a maintainer's tree where a search through commits is tested. The repository is bare: whoever wants a
working tree clones it. The first commit, one minute's work, is kept in the cache; a history borrows its objects and is
made in a second.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vmtests import cache
from vmtests.command import require
from vmtests.kernel import load, source
from vmtests.kernel.git import git

#: Part of the key of the first commit: raised when what is committed changes.
_FORMAT = 1

#: Of the first commit; each one after it is a minute younger.
_BEGIN = 1_700_000_000
_NAME, _MAIL = "vmtests", "vmtests@localhost"


@dataclass(frozen=True)
class Change:
    """A commit to make: the diff of a patch file, or words of one file to be replaced, which must be there once."""

    subject: str
    patch: Path | None = None
    file: str = "mm/mm_init.c"
    old: str = ""
    new: str = ""


@dataclass(frozen=True)
class History:
    """A bare repository.

    Attributes:
        folder: of the repository, whose branch is "main".
        commits: their full names, the first commit's first; one more than there are changes.
    """

    folder: Path
    commits: tuple[str, ...]


def make(folder: Path, changes: Sequence[Change], *, tree: Path | None = None) -> History:
    """Make a repository with a commit for each change, on top of one that has the whole tree.

    Args:
        folder: of the new repository; it must be empty, or not be there.
        changes: in their order.
        tree: what the first commit holds; None is the source of the kernel `base`, Debian's.

    Raises:
        HostFailure: a patch does not apply.
        ValueError: the words to be replaced are not there once.
    """
    first = _first(tree)
    git("init", "--quiet", "--bare", "--template=", "--initial-branch=main", folder, cwd=Path.cwd())
    (folder / "objects/info").mkdir(exist_ok=True)
    (folder / "objects/info/alternates").write_text(f"{first}/objects\n")
    commits = [git("rev-parse", "main", cwd=first).stdout.strip()]
    git("read-tree", commits[0], cwd=folder)
    for number, change in enumerate(changes, 1):
        _stage(folder, commits[-1], change)
        made = git("write-tree", cwd=folder).stdout.strip()
        date = f"{_BEGIN + 60 * number} +0000"
        who = {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", _NAME), ("EMAIL", _MAIL), ("DATE", date))
        }
        commit = git("commit-tree", "-p", commits[-1], "-m", change.subject, made, cwd=folder, env=who)
        commits.append(commit.stdout.strip())
    git("update-ref", "refs/heads/main", commits[-1], cwd=folder)
    return History(folder, tuple(commits))


def _stage(folder: Path, parent: str, change: Change) -> None:
    """Put a change into the repository's index."""
    what = f"the change {change.subject!r} does not fit"
    if change.patch is not None:
        git("apply", "--cached", "--whitespace=nowarn", change.patch, cwd=folder, what=what)
        return
    text = git("cat-file", "blob", f"{parent}:{change.file}", cwd=folder, what=what).stdout
    if text.count(change.old) != 1:
        raise ValueError(f"{what}: {change.file} has {change.old!r} {text.count(change.old)} times")
    scratch = folder / "staged"
    scratch.write_text(text.replace(change.old, change.new))
    blob = git("hash-object", "-w", "--no-filters", scratch, cwd=folder).stdout.strip()
    scratch.unlink()
    git("update-index", "--cacheinfo", f"100644,{blob},{change.file}", cwd=folder)


def _first(tree: Path | None) -> Path:
    """Return a bare repository in the cache whose only commit, "main", has the tree."""
    if tree is None:
        found = source.find(load("base").source, load("base").series)
        pristine, name = found.tree(), found.identity
    else:
        pristine, name = tree, f"{tree} {sorted((path, path.stat().st_mtime_ns) for path in tree.rglob('*'))}"

    def fill(to: Path) -> None:
        git("init", "--quiet", "--bare", "--template=", "--initial-branch=main", to, cwd=to)
        # One pack, hardly compressed: `git add` makes a file for each of 95,000 objects, and takes minutes.
        settings = ["-c", "core.compression=1", "-c", "fastimport.unpackLimit=0"]
        with subprocess.Popen(
            [require("git"), *settings, "-C", to, "fast-import", "--quiet", "--depth=0"], stdin=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            _export(pristine, process.stdin)
        if process.returncode != 0:
            raise ValueError(f"git fast-import of {pristine} ended with status {process.returncode}")

    key = hashlib.sha256(f"{_FORMAT}\0{name}".encode()).hexdigest()[:32]
    return cache.entry("histories", key, fill)


def _export(tree: Path, sink: IO[bytes]) -> None:
    """Write the tree as git fast-import's only commit."""
    message = b"Import the source"
    sink.write(b"commit refs/heads/main\n")
    sink.write(f"committer {_NAME} <{_MAIL}> {_BEGIN} +0000\n".encode())
    sink.write(b"data %d\n%s\n" % (len(message), message))
    for name, path in _files(tree):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            mode, content = b"120000", os.fsencode(path.readlink())
        else:
            mode, content = b"100755" if status.st_mode & 0o100 else b"100644", path.read_bytes()
        sink.write(b"M %s inline %s\ndata %d\n" % (mode, os.fsencode(name), len(content)))
        sink.write(content)
        sink.write(b"\n")


def _files(tree: Path) -> Iterator[tuple[str, Path]]:
    """Yield path below the tree, and path, of each file and link."""
    for place, folders, names in os.walk(tree):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*names, *links):
            path = Path(place, name)
            yield path.relative_to(tree).as_posix(), path
