"""Kernel source: Debian's, or a tree of the user's, which is never written to.

Each source ends as a pristine tree in the cache, `sources/NAME/`, that nothing writes to either: builds work on hard
links to its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vmtests import cache, files
from vmtests.command import require, run
from vmtests.debian import NEWER_SUITES, Archive, Package, unpack
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel.commits import Commits, commit_of, path_of
from vmtests.kernel.git import git
from vmtests.kernel.patches import Patch

#: The sources that are not trees of the user's: of a package, and what is not built here.
DEBIAN, STOCK = "debian", "stock"

# What every kernel tree has that we can build.
_LANDMARKS = ("Makefile", "Kconfig", "arch/x86")

# The files that a build leaves in a plain tree, as far as they are large or many; `make mrproper` removes the rest from
# the copy. There is a source folder called vmlinux.
_PRODUCT = re.compile(r".*\.(o|a|ko|cmd)|\.tmp_.*|vmlinux|vmlinux\.unstripped|bzImage")

# Untracked files beyond this are hardly source.
_UNTRACKED_LIMIT = 64 << 20


@dataclass(frozen=True)
class Source:
    """A kernel source whose content is known; it is unpacked only when something must be built."""

    # What the user reads, such as "linux-source-7.3 7.3.4-1".
    title: str
    # The same for the same content, whatever else changes.
    identity: str
    # Its folder in the cache's "sources".
    name: str
    unpack: Callable[[Path], None]
    # A git tree's edits that are not committed, to be applied before all other patches.
    diff: Patch | None = None
    # For `changed`, of a source with another identity.
    differs: Callable[[str], list[str] | None] = lambda _: None

    def changed(self, identity: str) -> list[str] | None:
        """Return the files that the source with this identity has not, or not so; None if that cannot be told."""
        return [] if identity == self.identity else self.differs(identity)

    def tree(self, progress: Callable[[str], None] | None = None) -> Path:
        """Return the pristine tree in the cache, unpacked if need be."""
        if progress is not None and cache.find("sources", self.name) is None:
            progress(f"unpacking {self.title}")
        return cache.entry("sources", self.name, self.unpack)


def find(source: str, series: str, progress: Callable[[str], None] | None = None) -> Source:
    """Return the source that a recipe names.

    Args:
        source: "debian", or a user's tree DIR[@REV].
        series: Debian's linux-source-SERIES.
        progress: told about what takes long.

    Raises:
        UsageError: there is no such tree or revision, or it is no kernel.
        HostFailure: Debian's archive cannot be reached, or has no such series.
    """
    if source == DEBIAN:
        return _debian(series)
    folder, revision = split(source)
    if (commit := _commit(folder, revision)) is not None:
        return _git_tree(folder, commit, dirty=revision is None and not _is_bare(folder))
    return _plain_tree(folder, progress)


def check(source: str) -> None:
    """Raise UsageError for a tree DIR[@REV] or a revision of it that is not there."""
    _commit(*split(source))


def _commit(folder: Path, revision: str | None) -> str | None:
    """Return the full name of a revision, or of HEAD; None if it is no git tree, or has no commit yet."""
    top = git("rev-parse", "--show-toplevel", cwd=folder, check=False).stdout.rstrip("\n")
    is_git = top == str(folder) or _is_bare(folder)
    commit = commit_of(folder, revision or "HEAD") if is_git else None
    if revision is not None and commit is None:
        raise UsageError(f"{folder} {'has no revision' if is_git else 'is no git tree to have'} {revision!r}")
    return commit


def _is_bare(folder: Path) -> bool:
    return git("rev-parse", "--is-bare-repository", cwd=folder, check=False).stdout.strip() == "true"


def split(source: str) -> tuple[Path, str | None]:
    """Split DIR[@REV] into the absolute folder and the revision; UsageError if the folder cannot be read."""
    ends = [len(source), *(at.start() for at in re.finditer("@", source))]
    for end in ends:
        folder = Path(source[:end]).expanduser()
        if source[:end] and folder.is_dir():
            if not os.access(folder, os.R_OK | os.X_OK):
                raise UsageError(f"the kernel tree {folder} cannot be read")
            if end + 1 == len(source):
                raise UsageError(f"{source}: name a revision after the @")
            return folder.resolve(), source[end + 1 :] or None
    raise UsageError(f"there is no kernel tree {source}: give a folder, or FOLDER@REVISION")


def _debian(series: str) -> Source:
    """Return the newest linux-source-SERIES at its first use, and the same one from then on."""
    if not re.fullmatch(r"\d+\.\d+", series):
        raise HostFailure(f'{series!r} is no series of the kernel: a recipe has it as in series = "7.3"')
    folder = cache.root() / "sources"
    folder.mkdir(exist_ok=True)
    kept = folder / f"linux-source-{series}.json"
    with cache.locked(folder / f".linux-source-{series}.lock"):
        try:
            package = Package(**json.loads(kept.read_text()))
        except (OSError, ValueError, TypeError):
            package = Archive.open(NEWER_SUITES).newest(f"linux-source-{series}")

    def fill(to: Path) -> None:
        scratch = to / ".package"
        scratch.mkdir()
        deb = Archive.open(NEWER_SUITES).download(package, scratch)
        unpack(deb, scratch)
        [tarball] = scratch.glob("usr/src/linux-source-*.tar.*")
        require("xz", package="xz-utils")
        run(["tar", "--extract", "--file", tarball, "--directory", to, "--strip-components=1"], seconds=1800)
        shutil.rmtree(scratch)
        files.replace(kept, json.dumps(asdict(package)))

    return Source(
        title=f"{package.name} {package.version}",
        identity=f"{package.name}={package.version}",
        name=re.sub(r"[^A-Za-z0-9.-]", "_", f"{package.name}-{package.version}"),
        unpack=fill,
    )


def _git_tree(folder: Path, commit: str, *, dirty: bool) -> Source:
    """Return a commit of the user's repository, and what is edited since then if `dirty`."""
    for landmark in _LANDMARKS:
        if git("cat-file", "-e", f"{commit}:{landmark}", cwd=folder, check=False).returncode != 0:
            raise UsageError(f"{folder} at {commit[:12]} is no kernel tree: it has no {landmark}")
    commits = Commits.of(folder)
    with cache.locked(commits.shadow / "lock"):
        diff = _edits(folder, commit, commits.shadow) if dirty else None

    def differs(identity: str) -> list[str] | None:
        kind, _, other = identity.partition(" ")
        return commits.changed(other, commit) if kind == "commit" else None

    return Source(
        title=f"{folder} @ {commit[:12]}{' (dirty)' if diff else ''}",
        identity=f"commit {commit}",
        name=f"git-{commit}",
        unpack=lambda to: commits.unpack(commit, to),
        diff=diff,
        differs=differs,
    )


def _edits(folder: Path, commit: str, shadow: Path) -> Patch | None:
    """Return all that the working tree has and the commit has not, untracked files too, as a patch."""
    untracked = git("ls-files", "--others", "--exclude-standard", "-z", cwd=folder).stdout.split("\0")
    sizes = {name: (folder / name).lstat().st_size for name in untracked if name and (folder / name).is_file()}
    if sum(sizes.values()) > _UNTRACKED_LIMIT:
        largest = max(sizes, key=lambda name: sizes[name])
        raise UsageError(
            f"{folder} has {sum(sizes.values()) >> 20} MiB of untracked files, the largest is {largest}: remove them,"
            f" have git ignore them, or name the revision to build, as in {folder}@HEAD"
        )
    index = shadow / "index"
    try:
        shutil.copy2(path_of(folder, "index"), index)  # its time too: git tells by it which entries are in doubt
    except FileNotFoundError:
        index.unlink(missing_ok=True)
    (shadow / "edits").mkdir(exist_ok=True)
    # What git adds it would touch among the user's objects if it could see them there.
    private = {"GIT_INDEX_FILE": str(index), "GIT_OBJECT_DIRECTORY": str(shadow / "edits")}
    git("update-index", "-q", "--refresh", cwd=folder, env=private, check=False)
    added = git("add", "--all", cwd=folder, env=private, check=False)
    if added.returncode != 0:
        raise UsageError(f"the edits in {folder} cannot be read", output=added.stdout)
    private["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = str(shadow / "objects")
    temporary = shadow / "edits.diff"
    git(
        "diff", "--cached", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv",
        "--src-prefix=a/", "--dst-prefix=b/", f"--output={temporary}", commit, cwd=folder, env=private,
    )  # fmt: skip
    if not temporary.stat().st_size:
        return None

    def keep(to: Path) -> None:
        shutil.copy(temporary, to / "uncommitted.diff")

    kept = cache.entry("diffs", Patch.read(temporary).sha256, keep)
    return Patch.read(kept / "uncommitted.diff")


def _plain_tree(folder: Path, progress: Callable[[str], None] | None) -> Source:
    """Return a tree without git, known by its content; a look at its files' times saves reading them again."""
    for landmark in _LANDMARKS:
        if not (folder / landmark).exists():
            raise UsageError(f"{folder} is no kernel tree: it has no {landmark}")
    listing = hashlib.sha256(os.fsencode(folder))
    for path, status in _walk(folder):
        known = (path, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        listing.update(repr(known).encode())
    name = f"plain-{listing.hexdigest()[:32]}"
    memory = cache.root() / "sources" / f"{name}.sha256"

    def fill(to: Path) -> None:
        try:
            shutil.copytree(folder, to, symlinks=True, dirs_exist_ok=True, ignore=_products)
        except (shutil.Error, OSError) as error:
            raise UsageError(f"the kernel tree {folder} cannot be copied: {error}") from None
        run(["make", "-C", to, "ARCH=x86_64", "mrproper"], seconds=600, what=f"cleaning the copy of {folder} failed")

    if not memory.exists():
        if progress is not None:
            progress(f"copying {folder}")
        memory.parent.mkdir(exist_ok=True)
        content = _content(cache.entry("sources", name, fill))
        files.replace(memory, content)
    content = memory.read_text()
    return Source(title=f"{folder} @ content {content[:12]}", identity=f"content {content}", name=name, unpack=fill)


def _walk(folder: Path, below: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield path below the folder and status of the tree's files, without a build's products, in a fixed order."""
    try:
        with os.scandir(os.path.join(os.fsencode(folder), below)) as entries:  # noqa: PTH118 -- bytes, and 100,000 of them
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            path = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                if path != b".git":
                    yield from _walk(folder, path + b"/")
            elif not _PRODUCT.fullmatch(os.fsdecode(entry.name)):
                yield path, entry.stat(follow_symlinks=False)
    except OSError as error:
        raise UsageError(f"the kernel tree {folder} cannot be read: {error}") from None


def _products(parent: str, names: list[str]) -> set[str]:
    """Say what not to copy, for copytree."""
    return {name for name in names if name == ".git" or (_PRODUCT.fullmatch(name) and not Path(parent, name).is_dir())}


def _content(tree: Path) -> str:
    total = hashlib.sha256()
    for name, status in _walk(tree):
        path = tree / os.fsdecode(name)
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(path.readlink())
        else:
            with path.open("rb") as handle:
                content = hashlib.file_digest(handle, "sha256").digest()
        total.update(repr((name, bool(status.st_mode & 0o100), content)).encode())
    return total.hexdigest()
