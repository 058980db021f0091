"""Building the guest's initramfs from Debian packages: no root, nothing of the host's touched, no key inside.

Two entries of the cache: the unpacked packages, which stay as they are until the recipe names others, so that a run
does not change under the user (remove `packages/` from the cache to get newer ones), and the image, whose key is
everything that its bytes depend on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests import cache, command
from vmtests.cpio import Tree
from vmtests.debian import Archive, unpack
from vmtests.errors import HostFailure
from vmtests.image import recipe as recipes
from vmtests.image import reseed
from vmtests.image.elf import needed
from vmtests.image.recipe import Recipe

#: Part of every image's key: count it up when this module packs the same input differently.
_FORMAT = 2

_FOLDERS = ("dev", "etc/dropbear", "proc", "run", "sys", "tmp")
_PRIVATE_FOLDERS = ("root", "root/.ssh")

#: Debian's merged /usr, with one folder of programs: fewer places to search.
_LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "usr/sbin": "bin", "lib": "usr/lib", "lib64": "usr/lib64"}

#: Where init looks for modules, and the loader first for libraries.
_MODULES = "usr/lib/vmtests/modules"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"

_BINARY_PLACES = ("usr/bin", "usr/sbin", "bin", "sbin")
_LIBRARY_PLACES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64")


@dataclass(frozen=True)
class Image:
    """A guest image, ready to boot."""

    # The initramfs: cpio, not compressed, because under TCG unpacking costs more than copying.
    path: Path
    sha256: str
    # Its key in the cache.
    key: str
    # Debian packages that its files are from: name to version.
    packages: Mapping[str, str]

    def verify(self) -> None:
        """See that the file is there and as it was made; HostFailure if not.

        A kernel takes from a damaged one what it can, and dies for want of the rest as if it were to blame.
        """
        try:
            found = self.path.stat()
            content = _file_sha256(self.path, found.st_size, found.st_mtime_ns)
        except OSError as error:
            raise HostFailure(f"the guest's image is not there: {self.path}: {error.strerror}") from error
        if content != self.sha256:
            raise HostFailure(
                f"the guest's image is damaged: {self.path} ({found.st_size} bytes) is not what was made. Remove its "
                "folder: it is made again"
            )


@functools.cache
def _file_sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """Return the checksum of a file, read again only when it has changed."""
    return _sha256(path.read_bytes())


def build(modules: Sequence[Path] = (), *, recipe: Recipe | None = None) -> Image:
    """Return the image, made or from the cache.

    Args:
        modules: kernel modules, unpacked, that init inserts in this order.
        recipe: None is the project's own.

    Raises:
        HostFailure: the archive cannot be reached, or a package lacks what the recipe or a program asks of it.
    """
    recipe = recipe or recipes.load()
    packages = _Packages.open(recipe.packages)
    codes = {f"{index:02}-{path.name}": path.read_bytes() for index, path in enumerate(modules)}
    parts = (_FORMAT, recipe, sorted(packages.versions.items()), [(name, _sha256(codes[name])) for name in codes])
    key = _sha256(repr(parts).encode())[:16]

    def make(folder: Path) -> None:
        files = _Files(packages)
        archive = _tree(recipe, files, codes).pack()
        (folder / "guest.cpio").write_bytes(archive)
        used = {name: packages.versions[name] for name in sorted(files.used)}
        (folder / "image.json").write_text(json.dumps({"sha256": _sha256(archive), "packages": used}, indent=1))

    folder = cache.entry("images", key, make)
    return Image(path=folder / "guest.cpio", key=key, **json.loads((folder / "image.json").read_text()))


@dataclass(frozen=True)
class _Packages:
    """The recipe's packages and all that they depend on, each unpacked into a folder of its name."""

    folder: Path
    versions: Mapping[str, str]

    @classmethod
    def open(cls, names: Sequence[str]) -> _Packages:
        release = platform.freedesktop_os_release()
        suite = release.get("VERSION_CODENAME", release.get("ID", "unknown"))
        folder = cache.entry("packages", f"{suite}-{_sha256(repr(tuple(names)).encode())[:16]}", cls._fetch(names))
        return cls(folder, json.loads((folder / "versions.json").read_text()))

    @staticmethod
    def _fetch(names: Sequence[str]) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            versions = {}
            with tempfile.TemporaryDirectory(dir=folder) as downloads:
                for deb in Archive.open().download_with_dependencies(names, Path(downloads)):
                    # NAME_VERSION_ARCHITECTURE.deb, where apt has written a colon as %3a.
                    name, version, _ = deb.name.split("_")
                    versions[name] = version.replace("%3a", ":")
                    unpack(deb, folder / name)
            (folder / "versions.json").write_text(json.dumps(versions, indent=1, sort_keys=True))

        return make


class _Files:
    """The files of the packages, and which packages they were taken from."""

    def __init__(self, packages: _Packages) -> None:
        self._packages = packages
        self.used: set[str] = set()

    def find(self, name: str, places: Sequence[str]) -> Path | None:
        """Return the file called `name` in one of these folders of some package."""
        for package in self._packages.versions:
            root = self._packages.folder / package
            for place in places:
                path = _follow(root, root / place / name)
                if path.is_file():
                    self.used.add(package)
                    return path
        return None

    def take(self, name: str, places: Sequence[str]) -> Path:
        path = self.find(name, places)
        if path is None:
            raise HostFailure(
                f"the image's recipe asks for {name}, which none of its packages and their dependencies has"
                f" in {', '.join(places)}"
            )
        return path


def _follow(root: Path, path: Path) -> Path:
    """Follow a link as it will be seen when `root` is the root: an absolute one must not lead to the host's files."""
    for _ in range(8):
        if not path.is_symlink():
            break
        target = path.readlink()
        path = root / target.relative_to("/") if target.is_absolute() else path.parent / target
    return path


def _tree(recipe: Recipe, files: _Files, modules: Mapping[str, bytes]) -> Tree:
    """Lay out the image."""
    tree = Tree()
    for path in _FOLDERS:
        tree.folder(path)
    for path in _PRIVATE_FOLDERS:
        tree.folder(path, 0o700)
    for path, target in _LINKS.items():
        tree.link(path, target)
    # Where init's first words go, before it has mounted /dev.
    tree.device("dev/console", 5, 1)

    programs = {name: files.take(name, _BINARY_PLACES) for name in recipe.programs}
    for name, program in programs.items():
        tree.file(f"usr/bin/{name}", program.read_bytes(), 0o755)
    _add_libraries(tree, files, list(programs.values()))
    if "busybox" in programs:
        for applet in command.run([programs["busybox"], "--list"], seconds=10).stdout.split():
            if f"usr/bin/{applet}" not in tree:
                tree.link(f"usr/bin/{applet}", "busybox")
    for path in recipe.files:
        tree.file(path, files.take(path, [""]).read_bytes())
    for path, content in recipe.overlay:
        # Not the mode of the checkout: a wheel does not keep it.
        tree.file(path, content, 0o755 if content.startswith(b"#!") else 0o644)
    for name, code in modules.items():
        tree.file(f"{_MODULES}/{name}", code)
    tree.file("usr/bin/reseed", reseed.program(), 0o755)
    tree.file("init", recipe.init, 0o755)
    return tree


def _add_libraries(tree: Tree, files: _Files, binaries: list[Path]) -> None:
    """Add what the programs need to run, and what that needs."""
    added = set()
    while binaries:
        binary = binaries.pop()
        for name in needed(binary.read_bytes()):
            # The loader is asked for by its path, a library by its name. (The C library asks for the loader by its
            # name once more, and finds it loaded.)
            folder, _, base = name.rpartition("/")
            if base in added:
                continue
            library = files.find(base, _LIBRARY_PLACES)
            if library is None:
                raise HostFailure(f"{binary.name} needs {base}, which none of the packages of the recipe has")
            tree.file(f"usr{folder}/{base}" if folder else f"{_LIBRARIES}/{base}", library.read_bytes(), 0o755)
            added.add(base)
            binaries.append(library)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
