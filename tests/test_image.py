"""The image: packed from packages without root, the same bytes for the same input, no key inside."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vmtests import data, image
from vmtests.cpio import Member, Tree, members
from vmtests.errors import HostFailure
from vmtests.host.kvm import INIT_LINE
from vmtests.image import Image, initramfs, recipe
from vmtests.image.elf import needed
from vmtests.image.recipe import Recipe

#: A program that every Debian has, and that needs a loader and the C library.
PROGRAM = Path("/bin/true")
#: One whose libraries need more libraries.
DEEP_PROGRAM = Path("/usr/bin/apt-get")


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of what a newc archive holds, read by its format alone."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        assert at % 4 == 0
        fields = [int(archive[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        start = (at + 110 + length + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        at = (start + size + 3) & ~3


def test_an_archive_holds_what_the_tree_holds() -> None:
    tree = Tree()
    tree.file("usr/bin/tool", b"#!/bin/sh\n", 0o755)
    tree.file("odd", b"12345")
    tree.link("bin", "usr/bin")
    tree.folder("root", 0o700)
    tree.device("dev/console", 5, 1)
    found = unpacked(tree.pack())
    assert found["usr/bin/tool"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n")
    assert found["odd"] == (stat.S_IFREG | 0o644, b"12345")
    assert found["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin")
    assert found["root"] == (stat.S_IFDIR | 0o700, b"")
    assert stat.S_ISCHR(found["dev/console"][0])
    listed = {one.path: one for one in members(tree.pack())}
    assert list(listed) == list(found)
    assert listed["odd"] == Member("odd", stat.S_IFREG | 0o644, 5)
    assert listed["bin"] == Member("bin", stat.S_IFLNK | 0o777, 7, "usr/bin")
    assert list(found).index("usr") < list(found).index("usr/bin") < list(found).index("usr/bin/tool")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio here to read the archive with")
def test_cpio_reads_the_archive() -> None:
    tree = Tree()
    tree.file("usr/bin/tool", b"12345", 0o755)
    tree.link("bin", "usr/bin")
    tree.device("dev/console", 5, 1)
    listing = subprocess.run(["cpio", "-tv"], input=tree.pack(), capture_output=True, check=True).stdout.decode()
    assert re.search(r"^crw------- .*5,\s+1 .* dev/console$", listing, re.MULTILINE)
    assert re.search(r"^-rwxr-xr-x .* 5 .* usr/bin/tool$", listing, re.MULTILINE)
    assert re.search(r"bin -> usr/bin$", listing, re.MULTILINE)


def test_the_order_of_adding_does_not_matter_and_a_file_is_no_folder() -> None:
    one, other = Tree(), Tree()
    for name in ("a", "b"):
        one.file(name, name.encode())
    for name in ("b", "a"):
        other.file(name, name.encode())
    assert one.pack() == other.pack()
    with pytest.raises(ValueError, match="a/c: a is no folder"):
        one.file("a/c", b"")


def test_what_a_program_needs() -> None:
    loader, *libraries = needed(PROGRAM.read_bytes())
    assert Path(loader).is_file()
    assert "libc.so.6" in libraries
    assert needed(b"#!/bin/sh\n") == ()


class _FakeArchive:
    """Debian's archive with two packages in it: `tool`, a program, and `libc`, what it needs."""

    opened = 0

    @classmethod
    def open(cls) -> _FakeArchive:
        cls.opened += 1
        return cls()

    def download_with_dependencies(self, packages: Sequence[str], to: Path) -> list[Path]:
        assert packages == ("tool",)
        programs = {f"usr/sbin/{program.name}": program for program in (PROGRAM, DEEP_PROGRAM)}
        return [self._deb("tool", to, programs), self._deb("libc", to, _libraries())]

    @staticmethod
    def _deb(name: str, to: Path, files: dict[str, Path]) -> Path:
        root = to / name
        (root / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: 1:2-3\nArchitecture: amd64\nMaintainer: n\nDescription: d\n"
        (root / "DEBIAN").chmod(0o755)
        (root / "DEBIAN/control").write_text(control)
        for path, source in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / path)
        # A link to the host's own files, were it followed as it stands.
        (root / "usr/sbin").mkdir(parents=True, exist_ok=True)
        (root / f"usr/sbin/absolute-{name}").symlink_to(f"/usr/sbin/{PROGRAM.name}")
        deb = to / f"{name}_1%3a2-3_amd64.deb"
        subprocess.run(
            ["dpkg-deb", "-Znone", "--root-owner-group", "--build", root, deb], check=True, capture_output=True
        )
        shutil.rmtree(root)
        return deb


def _libraries() -> dict[str, Path]:
    """Return the programs' loader and libraries, by where Debian has them."""
    listing = subprocess.run(["ldd", PROGRAM, DEEP_PROGRAM], capture_output=True, check=True, text=True).stdout
    found = [Path(path) for path in re.findall(r"(/\S+) \(0x", listing)]
    return {f"usr/lib/x86_64-linux-gnu/{path.name}": path.resolve() for path in found}


RECIPE = Recipe(
    ("tool",), (PROGRAM.name,), (), b"#!/bin/sh\n", (("etc/fstab", b"proc /proc\n"), ("usr/bin/own", b"#!"))
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(initramfs, "Archive", _FakeArchive)
    monkeypatch.setattr(_FakeArchive, "opened", 0)
    return tmp_path / "cache"


def _changed(**changes: Any) -> Recipe:
    return Recipe(**{**vars(RECIPE), **changes})


def test_an_image_is_made_of_packages_overlay_and_init() -> None:
    built = image.build(recipe=RECIPE)
    found = unpacked(built.path.read_bytes())
    assert found[f"usr/bin/{PROGRAM.name}"] == (stat.S_IFREG | 0o755, PROGRAM.read_bytes())
    assert found["init"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n")
    assert found["usr/bin/own"][0] == stat.S_IFREG | 0o755
    assert found["etc/fstab"] == (stat.S_IFREG | 0o644, b"proc /proc\n")
    loader, *libraries = needed(PROGRAM.read_bytes())
    assert f"usr{loader}" in found
    assert all(f"usr/lib/x86_64-linux-gnu/{name}" in found for name in libraries)
    assert found["root/.ssh"][0] == stat.S_IFDIR | 0o700
    assert built.packages == {"libc": "1:2-3", "tool": "1:2-3"}


def test_no_image_holds_a_key() -> None:
    found = unpacked(image.build(recipe=RECIPE).path.read_bytes())
    assert not [path for path in found if re.search(r"_key|authorized|\.pub$", path)]


def test_the_same_input_makes_the_same_image(cache: Path) -> None:
    first = image.build(recipe=RECIPE)
    content = first.path.read_bytes()
    shutil.rmtree(cache)
    old = os.umask(0o077)
    try:
        second = image.build(recipe=RECIPE)
    finally:
        os.umask(old)
    assert (second.key, second.sha256, second.path.read_bytes()) == (first.key, first.sha256, content)


def test_a_second_build_neither_needs_the_archive_nor_writes() -> None:
    first = image.build(recipe=RECIPE)
    changed = first.path.stat().st_mtime_ns
    assert image.build(recipe=RECIPE) == first
    assert first.path.stat().st_mtime_ns == changed
    assert _FakeArchive.opened == 1
    assert image.build(recipe=_changed(init=b"#!/bin/sh\n:\n")).key != first.key
    assert _FakeArchive.opened == 1


@pytest.mark.parametrize(
    "change", [{"init": b"#!"}, {"overlay": ()}, {"overlay": (("etc/fstab", b"other"),)}, {"programs": ()}]
)
def test_what_the_bytes_depend_on_is_in_the_key(change: dict[str, Any]) -> None:
    assert image.build(recipe=_changed(**change)).key != image.build(recipe=RECIPE).key


def test_modules_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "zlast.ko").write_bytes(b"inserted first")
    (tmp_path / "afirst.ko").write_bytes(b"plain")
    built = image.build([tmp_path / "zlast.ko", tmp_path / "afirst.ko"], recipe=RECIPE)
    found = {path: content for path, (_, content) in unpacked(built.path.read_bytes()).items()}
    names = [path for path in found if path.endswith(".ko")]
    assert names == ["usr/lib/vmtests/modules/00-zlast.ko", "usr/lib/vmtests/modules/01-afirst.ko"]
    assert found[names[0]] == b"inserted first"
    assert image.build([tmp_path / "afirst.ko"], recipe=RECIPE).key != built.key


def test_the_libraries_of_libraries_come_along() -> None:
    found = unpacked(image.build(recipe=_changed(programs=(DEEP_PROGRAM.name,))).path.read_bytes())
    libraries = {Path(path).name for path in found if ".so" in path}
    assert len(libraries) > len(needed(DEEP_PROGRAM.read_bytes()))
    assert libraries == {Path(path).name for path in _libraries()}


def test_what_no_package_has_is_named() -> None:
    with pytest.raises(HostFailure, match=r"asks for nowhere, which none"):
        image.build(recipe=_changed(programs=("nowhere",)))


def test_a_library_that_no_package_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_image._libraries", dict)
    with pytest.raises(HostFailure, match=f"{PROGRAM.name} needs ld-linux"):
        image.build(recipe=RECIPE)


def test_an_absolute_link_stays_within_its_package() -> None:
    image.build(recipe=_changed(programs=("absolute-tool",)))
    with pytest.raises(HostFailure, match="asks for absolute-libc"):
        image.build(recipe=_changed(programs=("absolute-libc",)))


def test_the_projects_own_recipe() -> None:
    own = recipe.load()
    assert {"busybox", "dropbear", "ndctl", "daxctl"} <= set(own.programs)
    assert f'echo "{INIT_LINE}"' in own.init.decode()
    subprocess.run(["sh", "-n", data.folder("images") / "init"], check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("packages = [", "cannot be read"), ('packages = []\nprogrammes = ["sh"]', "unknown key programmes")],
)
def test_a_bad_recipe_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "guest.toml").write_text(text)
    (tmp_path / "init").touch()
    with pytest.raises(HostFailure, match=message):
        recipe.load(tmp_path)


def test_an_image_that_is_not_what_was_made(tmp_path: Path) -> None:
    image = Image(tmp_path / "guest.cpio", hashlib.sha256(b"made").hexdigest(), "", {})
    image.path.write_bytes(b"made")
    image.verify()
    image.path.write_bytes(b"ma")
    with pytest.raises(HostFailure, match=r"image is damaged: .*guest.cpio \(2 bytes\) is not what was made"):
        image.verify()
    image.path.unlink()
    with pytest.raises(HostFailure, match="image is not there: .*guest.cpio: No such file"):
        image.verify()
