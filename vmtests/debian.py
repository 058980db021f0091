"""Debian's archive, as the mirror of the host's own apt carries it.

apt does the work, with a state of its own in the cache: the host's mirror, proxy and keyring are used, its lists,
preferences, hooks and package database are neither read nor touched. No root is needed.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests import cache
from vmtests.command import require, run
from vmtests.errors import HostFailure

#: Where a newer package may be. What a mirror does not carry is left out. "stable" and "trixie" may name one suite and
#: yet have lists of different ages, on a caching mirror, so both are asked.
NEWER_SUITES = (
    "stable",
    "stable-backports",
    "testing",
    "unstable",
    "trixie",
    "trixie-backports",
    "forky",
    "sid",
)

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: Read after the host's own configuration, so that its proxy is kept and its hooks are not.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Default-Release;
Dir::Etc::sourcelist "{state}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{state}";
Dir::State::lists "{state}/lists/";
Dir::State::status "{state}/status";
Dir::State::extended_states "{state}/extended_states";
Dir::Cache "{state}/cache/";
Dir::Cache::archives "{state}/cache/archives/";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
APT::Architecture "amd64";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::AllowReleaseInfoChange "true";
Acquire::Retries "3";
"""

_UPDATE_EVERY = 24 * 3600.0


@dataclass(frozen=True)
class Package:
    """One version of one binary package."""

    name: str
    version: str
    # The suite's codename, such as "trixie-backports".
    suite: str


@dataclass(frozen=True)
class Mirror:
    """Where the host gets its Debian from."""

    uri: str
    # The suite of the host's own release, such as "bookworm".
    suite: str
    keyring: Path = _KEYRING


@dataclass(frozen=True)
class Archive:
    """Some suites of Debian's archive; every file that comes from it is checked against the archive's signature."""

    mirror: Mirror
    # The suites that the mirror carries, each with its codename.
    suites: tuple[tuple[str, str], ...]
    # The folder of our private apt state.
    state: Path

    @classmethod
    def open(
        cls,
        suites: Sequence[str] | None = None,
        *,
        refresh: bool = False,
        mirror: Mirror | None = None,
    ) -> Archive:
        """Open the archive, its lists at most a day old; older lists serve when the mirror cannot be reached.

        Args:
            suites: names of suites, of which the mirror carries one at least; None is the host's own release.
            refresh: fetch the lists now.
            mirror: None is the host's own.

        Raises:
            HostFailure: the host is not a Debian, has no mirror, or the mirror cannot be reached.
        """
        mirror = mirror or host_mirror()
        if not mirror.keyring.is_file():
            raise HostFailure(
                f"{mirror.keyring} is missing, so nothing from Debian's archive can be checked:"
                " install debian-archive-keyring"
            )
        wanted = tuple(dict.fromkeys(suites or (mirror.suite,)))
        key = hashlib.sha256(repr((mirror, wanted)).encode()).hexdigest()[:16]
        state = cache.root() / "apt" / key
        (state / "lists/partial").mkdir(parents=True, exist_ok=True)
        (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        with cache.locked(state / "lock"):
            (state / "apt.conf").write_text(_CONFIGURATION.format(state=state))
            (state / "status").touch()
            stamp = state / "updated"
            if refresh or not stamp.exists() or time.time() - stamp.stat().st_mtime > _UPDATE_EVERY:
                _update(mirror, wanted, state, stamp)
            return cls(mirror, _carried(state), state)

    def packages(self, pattern: str) -> list[Package]:
        """Return all versions of all packages whose name matches the shell pattern `pattern`."""
        known = self._apt("apt-cache", "pkgnames", re.split(r"[*?\[]", pattern)[0])
        names = [name for name in known.stdout.split() if fnmatch.fnmatchcase(name, pattern)]
        codenames = dict(self.suites)
        found = []
        for line in self._apt("apt-cache", "madison", *sorted(names)).stdout.splitlines() if names else ():
            name, version, where = (part.strip() for part in line.split("|"))
            suite = where.split()[1].partition("/")[0]
            found.append(Package(name, version, codenames.get(suite, suite)))
        return found

    def newest(self, pattern: str) -> Package:
        """Return the newest package, in the order of dpkg, whose name matches the shell pattern `pattern`."""
        found = self.packages(pattern)
        if not found:
            raise HostFailure(f"no package {pattern} in {self}")
        return max(found, key=functools.cmp_to_key(_compare))

    def download(self, package: str | Package, to: Path) -> Path:
        """Download one package, verified, into the folder `to`; of a name the newest version. Return the .deb."""
        if isinstance(package, str):
            package = self.newest(package)
        before = set(to.glob("*.deb"))
        self._apt("apt-get", "download", f"{package.name}={package.version}", cwd=to, seconds=1800)
        new = set(to.glob("*.deb")) - before
        if not new:  # it was there already: apt has checked it and kept it
            new = set(to.glob(f"{package.name}_{package.version.replace(':', '%3a')}_*.deb"))
        if len(new) != 1:
            raise HostFailure(f"apt downloaded no single file for {package.name} {package.version} into {to}")
        return new.pop()

    def download_with_dependencies(self, packages: Sequence[str], to: Path) -> list[Path]:
        """Download packages and all that they depend on, verified, into the empty folder `to`. Return the .debs."""
        (to / "partial").mkdir(parents=True, exist_ok=True)
        try:
            self._apt(
                "apt-get", "-o", f"Dir::Cache::archives={to}/", "install", "--yes", "--download-only", *packages,
                seconds=1800,
            )  # fmt: skip
        finally:
            (to / "lock").unlink(missing_ok=True)
        (to / "partial").rmdir()
        return sorted(to.glob("*.deb"))

    def __str__(self) -> str:
        return f"{', '.join(dict.fromkeys(codename for _, codename in self.suites))} ({self.mirror.uri})"

    def _apt(
        self, program: str, *arguments: str, cwd: Path | None = None, seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        # apt's caches are not made for two writers: a command at a time.
        with cache.locked(self.state / "lock"):
            return _apt(self.state, program, *arguments, cwd=cwd, seconds=seconds)


def host_mirror() -> Mirror:
    """Return the mirror that the host's apt is configured for, whether its lists were ever fetched or not."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise HostFailure(
            f"this host is {release.get('PRETTY_NAME', 'no Debian')}; kernel source and guest image come from Debian's"
            " archive: run vmtests on Debian 12 or newer, or in a container of it"
        )
    # Lists that do not exist yet make `indextargets` silent, but not this one.
    uris = run([require("apt-get", package="apt"), "--print-uris", "update"], seconds=60).stdout
    found = re.findall(r"^'(\S+?)/+dists/([^'/]+)/(?:In)?Release'", uris, re.MULTILINE)
    own = [pair for pair in found if pair[1] == release.get("VERSION_CODENAME")]
    plain = [pair for pair in found if "-" not in pair[1]]  # a host on stable, testing or sid
    if not own + plain:
        raise HostFailure("apt has no mirror of Debian: see sources.list(5) for how to add one")
    uri, suite = (own + plain)[0]
    return Mirror(uri, suite)


def unpack(deb: Path, to: Path) -> None:
    """Unpack a package's files into the folder `to`, without root and without its scripts."""
    to.mkdir(parents=True, exist_ok=True)
    run([require("dpkg-deb", package="dpkg"), "--extract", deb, to], seconds=600, what=f"unpacking {deb.name} failed")


def _apt(
    state: Path, program: str, *arguments: str, cwd: Path | None = None, seconds: float = 300, check: bool = True
) -> subprocess.CompletedProcess[str]:
    argv = [require(program, package="apt"), "-qq", "-c", str(state / "apt.conf"), *arguments]
    return run(argv, cwd=cwd, seconds=seconds, check=check, what="Debian's archive cannot be read")


def _update(mirror: Mirror, suites: Sequence[str], state: Path, stamp: Path) -> None:
    """Fetch the lists, then keep in sources.list the suites that are there."""
    _write_sources(mirror, suites, state)
    result = _apt(state, "apt-get", "update", check=False, seconds=600)
    carried = _carried(state)
    if not carried:
        raise HostFailure(
            f"the mirror {mirror.uri} carries none of {', '.join(suites)}, or cannot be reached",
            command=result.args,
            status=result.returncode,
            output=result.stdout,
        )
    _write_sources(mirror, [suite for suite, _ in carried], state)
    _apt(state, "apt-cache", "gencaches")
    # A suite that does not exist is an error, E:, each time; a network that is down is a warning, W:, so that the old
    # lists are used; then the next run tries again.
    if not re.search(r"^W: (Failed|Some index)", result.stdout, re.MULTILINE):
        stamp.touch()


def _write_sources(mirror: Mirror, suites: Sequence[str], state: Path) -> None:
    options = f"signed-by={mirror.keyring} arch=amd64 target=Packages"
    lines = (f"deb [{options}] {mirror.uri} {suite} main\n" for suite in suites)
    (state / "sources.list").write_text("".join(lines))


def _carried(state: Path) -> tuple[tuple[str, str], ...]:
    """Return name and codename of the suites in sources.list whose lists are here."""
    targets = _apt(state, "apt-get", "indextargets", "--format", "$(RELEASE) $(CODENAME)").stdout
    pairs = (line.split() for line in targets.splitlines())
    return tuple(dict.fromkeys((suite, codename) for suite, codename in pairs))


def _compare(left: Package, right: Package) -> int:
    def holds(relation: str) -> bool:
        argv = [require("dpkg", package="dpkg"), "--compare-versions", left.version, relation, right.version]
        return run(argv, seconds=10, check=False).returncode == 0

    return 1 if holds("gt") else -1 if holds("lt") else 0
