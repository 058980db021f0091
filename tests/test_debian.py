"""A small archive on disk, signed with a key of its own, read by the host's real apt."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vmtests import cache, debian
from vmtests.debian import Archive, Mirror, Package
from vmtests.errors import HostFailure

pytestmark = [
    pytest.mark.skipif(
        not all(map(shutil.which, ("apt-get", "dpkg-deb", "gpg"))),
        reason="needs apt and gpg, to read and sign an archive",
    ),
    pytest.mark.usefixtures("private_cache"),
]


def run(*argv: str | Path, **env: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, **env})


@contextmanager
def signer(home: Path, name: str, keyring: Path) -> Iterator[None]:
    """Make a key in the folder and export it; the agent that gpg starts for it ends with the block."""
    home.chmod(0o700)
    run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", GNUPGHOME=str(home))
    run("gpg", "--batch", "--output", keyring, "--export", GNUPGHOME=str(home))
    try:
        yield
    finally:
        run("gpgconf", "--kill", "gpg-agent", GNUPGHOME=str(home))


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("gpg")
    with signer(home, "tester", home / "key.gpg"):
        yield home


class Repository:
    """What a mirror has on its disk."""

    def __init__(self, path: Path, key: Path) -> None:
        self.path, self.key = path, key
        # "copy" makes apt fetch the files, as from a real mirror.
        self.mirror = Mirror(f"copy:{path}", "old", key / "key.gpg")

    def suite(self, suite: str, codename: str, *packages: tuple[str, str, str]) -> None:
        """Publish a suite that holds packages (name, version, what it depends on)."""
        index = "".join(self._package(*package) for package in packages)
        lists = self.path / f"dists/{suite}/main/binary-amd64"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "Packages").write_text(index)
        digest = hashlib.sha256(index.encode()).hexdigest()
        release = self.path / f"dists/{suite}/Release"
        release.write_text(
            f"Suite: {suite}\nCodename: {codename}\nComponents: main\nArchitectures: amd64\n"
            f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S UTC', time.gmtime())}\n"
            f"SHA256:\n {digest} {len(index)} main/binary-amd64/Packages\n"
        )
        signed = release.with_name("InRelease")
        signed.unlink(missing_ok=True)
        run("gpg", "--batch", "--output", signed, "--clear-sign", release, GNUPGHOME=str(self.key))

    def _package(self, name: str, version: str, depends: str) -> str:
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: tester\nDescription: {name}\n"
        control += f"Depends: {depends}\n" if depends else ""
        tree = self.path / "build" / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "DEBIAN/control").write_text(control)
        (tree / f"usr/share/{name}").mkdir(parents=True, exist_ok=True)
        (tree / f"usr/share/{name}/version").write_text(version)
        deb = self.path / "pool" / f"{name}_{version.replace(':', '%3a')}_all.deb"
        deb.parent.mkdir(exist_ok=True)
        run("dpkg-deb", "--root-owner-group", "--build", tree, deb)
        content = deb.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return f"{control}Filename: pool/{deb.name}\nSize: {len(content)}\nSHA256: {digest}\n\n"


@pytest.fixture
def repository(tmp_path: Path, key: Path) -> Repository:
    repository = Repository(tmp_path / "mirror", key)
    repository.suite("old", "old", ("tool", "1.0-1", "library (>= 1)"), ("library", "1.2-1", ""), ("other", "1", ""))
    repository.suite("stable-backports", "new-backports", ("tool", "1.10-1~bpo1", ""), ("linux-7.3", "1:7.3.4-1", ""))
    repository.suite("testing", "newer", ("tool", "1.9-1", ""))
    return repository


def test_newest_is_in_the_order_of_dpkg(repository: Repository) -> None:
    archive = Archive.open(["stable-backports", "testing", "old"], mirror=repository.mirror)
    assert archive.newest("tool") == Package("tool", "1.10-1~bpo1", "new-backports")
    assert archive.newest("t*l").version == "1.10-1~bpo1"
    assert archive.newest("linux-?.3").name == "linux-7.3"
    with pytest.raises(HostFailure, match=r"no package linux-9.9 in new-backports, newer, old"):
        archive.newest("linux-9.9")


def test_a_suite_that_is_not_there_is_left_out(repository: Repository) -> None:
    archive = Archive.open(["stable", "testing", "experimental"], mirror=repository.mirror)
    assert archive.suites == (("testing", "newer"),)
    assert archive.newest("tool").version == "1.9-1"
    with pytest.raises(HostFailure, match="carries none of stable, sid, or cannot be reached"):
        Archive.open(["stable", "sid"], mirror=repository.mirror)


def test_one_package(repository: Repository, tmp_path: Path) -> None:
    archive = Archive.open(["stable-backports"], mirror=repository.mirror)
    for _ in range(2):  # the second time it is there already
        deb = archive.download("linux-7.3", tmp_path)
        assert deb.parent == tmp_path
    debian.unpack(deb, tmp_path / "unpacked")
    assert (tmp_path / "unpacked/usr/share/linux-7.3/version").read_text() == "1:7.3.4-1"


def test_with_all_that_it_needs(repository: Repository, tmp_path: Path) -> None:
    debs = Archive.open(mirror=repository.mirror).download_with_dependencies(["tool"], tmp_path / "debs")
    assert [deb.name.split("_")[0] for deb in debs] == ["library", "tool"]
    assert sorted((tmp_path / "debs").iterdir()) == debs


def test_lists_are_fetched_once_a_day(repository: Repository) -> None:
    archive = Archive.open(mirror=repository.mirror)
    repository.suite("old", "old", ("tool", "2.0-1", ""))
    assert Archive.open(mirror=repository.mirror).newest("tool").version == "1.0-1"
    os.utime(archive.state / "updated", (0, 0))
    assert Archive.open(mirror=repository.mirror).newest("tool").version == "2.0-1"
    repository.suite("old", "old", ("tool", "3.0-1", ""))
    assert Archive.open(mirror=repository.mirror, refresh=True).newest("tool").version == "3.0-1"


def test_old_lists_serve_when_the_mirror_is_away(repository: Repository) -> None:
    Archive.open(mirror=repository.mirror)
    repository.path.rename(repository.path.with_name("away"))
    assert Archive.open(mirror=repository.mirror).newest("tool").version == "1.0-1"


def test_what_another_key_signed_is_not_used(repository: Repository, tmp_path: Path) -> None:
    mirror = Mirror(repository.mirror.uri, "old", tmp_path / "other.gpg")
    with pytest.raises(HostFailure, match=r"other.gpg is missing"):
        Archive.open(mirror=mirror)
    (tmp_path / "home").mkdir()
    with (
        signer(tmp_path / "home", "mallory", mirror.keyring),
        pytest.raises(HostFailure, match="cannot be reached"),
    ):
        Archive.open(mirror=mirror)


def test_a_package_that_was_changed_is_refused(repository: Repository, tmp_path: Path) -> None:
    archive = Archive.open(mirror=repository.mirror)
    deb = next((repository.path / "pool").glob("other_*"))
    deb.write_bytes(deb.read_bytes()[:-1] + b"X")
    with pytest.raises(HostFailure, match="Debian's archive cannot be read"):
        archive.download("other", tmp_path)
    assert not list(tmp_path.glob("*.deb"))


def test_the_host_is_left_alone(repository: Repository, tmp_path: Path) -> None:
    lists = Path("/var/lib/apt/lists")
    before = sorted((path, path.lstat().st_mtime_ns) for path in [lists, *lists.glob("*")])
    archive = Archive.open(mirror=repository.mirror)
    archive.download_with_dependencies(["tool"], tmp_path / "debs")
    assert sorted((path, path.lstat().st_mtime_ns) for path in [lists, *lists.glob("*")]) == before
    assert archive.state.is_relative_to(cache.root())


@pytest.mark.parametrize(
    ("suites", "uri", "suite"),
    [
        (("debian-security/dists/bookworm-security", "debian/dists/bookworm"), "http://m/debian", "bookworm"),
        (("debian/dists/testing",), "http://m/debian", "testing"),
    ],
)
def test_the_host_s_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suites: tuple[str, ...], uri: str, suite: str
) -> None:
    apt = tmp_path / "apt-get"
    lines = "".join(f"'http://m/{suite}/InRelease' m_InRelease 0\n" for suite in suites)
    apt.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}END\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert debian.host_mirror() == Mirror(uri, suite)
    apt.write_text("#!/bin/sh\n")
    with pytest.raises(HostFailure, match="apt has no mirror of Debian"):
        debian.host_mirror()
    release["ID"] = "fedora"
    with pytest.raises(HostFailure, match="run vmtests on Debian 12 or newer"):
        debian.host_mirror()
