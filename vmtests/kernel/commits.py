"""Commits of a user's repository, which is only read: all that git writes goes to a repository of our own.

That one borrows the user's objects, as `git clone --shared` makes one. An unpacked commit shares the files that it has
in common with another one by hard links; every file has the same old time, so that what a commit changes is never taken
for older than objects that were built of another one: who adopts those makes it new (build.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vmtests import cache
from vmtests.command import run
from vmtests.kernel.git import git

#: The time of every file of an unpacked commit: in 2001.
_OLD = 1_000_000_000

# So many unpacked commits, those used last, are looked at for what they have in common with another one.
_NEAR = 8


@dataclass(frozen=True)
class Commits:
    """The commits of one repository.

    Attributes:
        folder: the user's.
        shadow: ours, bare; its lock is the file "lock" in it.
    """

    folder: Path
    shadow: Path

    @classmethod
    def of(cls, folder: Path) -> Commits:
        """Return the commits of a repository."""
        shadow = cache.root() / "trees" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        shadow.mkdir(parents=True, exist_ok=True)
        with cache.locked(shadow / "lock"):
            borrow(folder, shadow)
        return cls(folder, shadow)

    def changed(self, before: str, after: str) -> list[str] | None:
        """Return the files that two commits do not have in common; None if one of them is not of this repository."""
        known = git("cat-file", "-e", f"{before}^{{commit}}", cwd=self.shadow, check=False).returncode == 0
        return [name for _, name in self._differences(before, after)] if known else None

    def unpack(self, commit: str, to: Path) -> None:
        """Write all files of a commit into an empty folder, with hard links to those of the nearest one there is."""
        near = self._nearest(commit)
        if near is None:
            self._checkout(commit, to, None)
            return
        run(["cp", "--archive", "--link", f"{near}/.", to], seconds=600)
        differences = self._differences(near.name.removeprefix("git-"), commit)
        for status, name in differences:
            if status == "A":
                continue
            (to / name).unlink()
            for folder in (to / name).parents:
                if folder == to or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()
        self._checkout(commit, to, [name for status, name in differences if status != "D"])

    def _checkout(self, commit: str, to: Path, names: Iterable[str] | None) -> None:
        """Write files of a commit, or all of them, into the folder."""
        index = {"GIT_DIR": str(self.shadow), "GIT_WORK_TREE": str(to), "GIT_INDEX_FILE": str(to / ".index")}
        what = f"checking out {commit[:12]} of {self.folder} failed"
        git("read-tree", commit, cwd=to, env=index, what=what)
        if names is None:
            git("checkout-index", "--all", "--quiet", cwd=to, env=index, what=what)
            paths = [Path(place, name) for place, _, files in os.walk(to) for name in files]
        else:
            paths = [to / name for name in names]
            listing = b"".join(os.fsencode(path.relative_to(to)) + b"\0" for path in paths)
            git("checkout-index", "--quiet", "-z", "--stdin", cwd=to, env=index, stdin=listing, what=what)
        (to / ".index").unlink()
        for path in paths:
            if path.is_symlink() or path.is_file():
                os.utime(path, (_OLD, _OLD), follow_symlinks=False)

    def _nearest(self, commit: str) -> Path | None:
        """Return the unpacked commit that this one differs least from."""
        there = [path for path in (cache.root() / "sources").glob("git-*") if path.is_dir()]
        found: list[tuple[int, Path]] = []
        for path in sorted(there, key=lambda path: -path.stat().st_mtime)[:_NEAR]:
            changed = self.changed(path.name.removeprefix("git-"), commit)
            # Attributes say how files come out of git: with other ones, the same content may be other files.
            if changed is not None and not any(Path(name).name == ".gitattributes" for name in changed):
                found.append((len(changed), path))
        nearest = min(found)[1] if found else None
        return None if nearest is None or cache.hold(nearest) is None else nearest

    def _differences(self, before: str, after: str) -> list[tuple[str, str]]:
        """Return (status, file) for what differs: A for a new file, D for one that is gone, else M or T."""
        words = git("diff-tree", "-r", "-z", "--no-renames", "--name-status", before, after, cwd=self.shadow).stdout
        fields = words.split("\0")
        return list(zip(fields[:-1:2], fields[1::2], strict=True))


def borrow(folder: Path, to: Path) -> None:
    """Make a bare repository in the folder `to` that has all objects of the repository in `folder`."""
    kind = git("rev-parse", "--show-object-format", cwd=folder).stdout.strip()
    git("init", "--quiet", "--bare", "--template=", f"--object-format={kind}", to, cwd=to)
    (to / "objects/info").mkdir(exist_ok=True)
    (to / "objects/info/alternates").write_text(f"{path_of(folder, 'objects')}\n")
    if (shallow := path_of(folder, "shallow")).exists():
        # Where a history is cut off, git must not look for what is behind.
        shutil.copy(shallow, to / "shallow")
    else:
        (to / "shallow").unlink(missing_ok=True)


def commit_of(folder: Path, revision: str) -> str | None:
    """Return the full name of a commit, or None if the repository has no such revision."""
    name = f"{revision}^{{commit}}"
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", name, cwd=folder, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def path_of(folder: Path, name: str) -> Path:
    """Return where a repository keeps one of its files, such as "objects" or "index"."""
    return Path(git("rev-parse", "--path-format=absolute", "--git-path", name, cwd=folder).stdout.strip())
