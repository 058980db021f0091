"""Debian's own kernel out of its packages, as they were before 7.3 and as they are since."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fake_bzimage import BANNER, bzimage, vmlinux
from vmtests import kernel
from vmtests.debian import Package
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel import stock
from vmtests.kernel.modules import WANTED

RELEASE, VERSION = "7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"
CODE = vmlinux("ab" * 20)

#: Where the packages have what, by what a package is called before the release.
SINCE = {
    "image": "usr/share/doc/README",
    "binary": f"usr/lib/modules/{RELEASE}/vmlinuz",
    "modules": f"usr/lib/modules/{RELEASE}/kernel/MODULES",
    "base": f"usr/lib/modules/{RELEASE}/config",
}
BEFORE = {"image": f"boot/vmlinuz-{RELEASE} boot/config-{RELEASE} lib/modules/{RELEASE}/kernel/MODULES"}


class FakeArchive:
    """Debian's archive with one kernel in it, and of its modules an older version too."""

    def __init__(self, contents: Mapping[str, str], folder: Path) -> None:
        self.contents = {f"linux-{part}-{RELEASE}": places.split() for part, places in contents.items()}
        self.folder = folder
        self.downloads: list[str] = []

    def open(self, _suites: Sequence[str]) -> FakeArchive:
        return self

    def newest(self, pattern: str) -> Package:
        assert pattern == "linux-image-7.3.*-cloud-amd64"
        return Package(f"linux-image-{RELEASE}", VERSION, "trixie-backports")

    def packages(self, name: str) -> list[Package]:
        return [Package(name, version, "suite") for version in ("7.3.3-1", VERSION) if name in self.contents]

    def download(self, package: Package, to: Path) -> Path:
        assert package.version == VERSION
        self.downloads.append(package.name)
        root = self.folder / package.name
        (root / "DEBIAN").mkdir(parents=True)
        control = f"Package: {package.name}\nVersion: {VERSION}\nArchitecture: amd64\nMaintainer: n\nDescription: d\n"
        (root / "DEBIAN/control").write_text(control)
        for place in self.contents[package.name]:
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name == "MODULES":
                for name in WANTED:
                    (path.parent / f"{name}.ko.xz").write_bytes(lzma.compress(b"\0depends=\0"))
            elif "vmlinuz" in path.name:
                bzimage(path, gzip.compress(CODE))
            else:
                path.write_text("CONFIG_X=y\n")
        deb = to / f"{package.name}.deb"
        subprocess.run(
            ["dpkg-deb", "-Znone", "--root-owner-group", "--build", root, deb], check=True, capture_output=True
        )
        return deb


@pytest.mark.parametrize("contents", [SINCE, BEFORE], ids=["since 7.3", "before"])
def test_a_kernel_out_of_packages(contents: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = FakeArchive(contents, tmp_path / "packages")
    monkeypatch.setattr(stock, "Archive", archive)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = kernel.build(kernel.load("stock"))
    assert kernel.build(kernel.load("stock")) == found
    assert archive.downloads == list(archive.contents), "each package once"
    assert (found.release, found.source) == (RELEASE, f"linux-image-{RELEASE} {VERSION}")
    assert found.compiler in BANNER.decode()
    assert found.config_values() == {"CONFIG_X": "y"}
    assert (found.patches, found.build_seconds) == ((), None)
    assert found.vmlinux is not None
    assert found.vmlinux.read_bytes() == CODE
    assert [path.name for path in found.modules] == [f"{name}.ko" for name in WANTED]
    assert not (found.image.parent / "packages").exists()


def test_packages_that_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "Archive", FakeArchive({**SINCE, "base": "etc/config"}, tmp_path / "packages"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(HostFailure, match="cloud-amd64 has its config in none of boot/config-"):
        kernel.build(kernel.load("stock"))


def test_nothing_is_built_into_it(tmp_path: Path) -> None:
    recipe = kernel.resolve("stock", tree=str(tmp_path), cc="clang")
    assert recipe == kernel.load("stock")
    with pytest.raises(UsageError, match="stock is Debian's own build, which no tree goes into"):
        kernel.resolve("stock", sources={"stock": str(tmp_path)})
    (tmp_path / "mine.patch").write_text("mine")
    with pytest.raises(UsageError, match="stock is Debian's own build: no patch goes into it"):
        kernel.build(replace(recipe, patches=(kernel.Patch.read(tmp_path / "mine.patch"),)))
