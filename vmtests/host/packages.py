"""The Debian packages that vmtests needs on the host, and `vmtests setup`, which installs those that are missing."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmtests.command import require, run
from vmtests.errors import ExitCode, HostFailure

#: The user's word that sudo may be used.
PERMISSION = "VMTESTS_SETUP"

_LISTS = Path("/var/lib/apt/lists")
_LISTS_EVERY = 24 * 3600.0


@dataclass(frozen=True)
class Need:
    """A package that is needed."""

    package: str
    why: str
    # "guests" or "kernels": what cannot be done without it; "tests": what tests of vmtests itself are skipped.
    purpose: str
    # A program that serves as well when it comes from elsewhere, such as a QEMU built by hand.
    program: str | None = None


#: What a minimal Debian lacks. Recommended packages are not installed, so libc6-dev stands for itself. Not here:
#: what dpkg, apt and the essential packages bring (ar, tar, perl, setpriv), and what only some user's own .config
#: needs (clang for --cc clang, dwarves for CONFIG_DEBUG_INFO_BTF).
NEEDS = (
    Need("qemu-system-x86", "runs the guests", "guests", "qemu-system-x86_64"),
    Need("debian-archive-keyring", "checks what comes from Debian's archive", "guests"),
    Need("bc", "makes the kernel's timeconst.h", "kernels", "bc"),
    Need("bison", "makes Kconfig's parser", "kernels", "bison"),
    Need("flex", "makes Kconfig's scanner", "kernels", "flex"),
    Need("gcc", "compiles kernels", "kernels", "gcc"),
    Need("git", "applies patches, clones kernel trees", "kernels", "git"),
    Need("libc6-dev", "for the kernel's own tools", "kernels"),
    Need("libelf-dev", "for the kernel's objtool", "kernels"),
    Need("libssl-dev", "for the kernel's certificates, where a config has them", "kernels"),
    Need("make", "builds kernels", "kernels", "make"),
    Need("xz-utils", "unpacks the kernel's source", "kernels", "xz"),
)

#: What vmtests' own unit tests need besides; they say so where they are skipped.
TEST_NEEDS = (
    Need("chromium-headless-shell", "opens the report's page in a browser", "tests", "chromium-headless-shell"),
)


def missing(needs: Sequence[Need] = NEEDS) -> tuple[str, ...]:
    """Return the packages that are needed and not installed. On a system without dpkg only programs are looked for."""
    absent = [need for need in needs if need.program is None or shutil.which(need.program) is None]
    installed = _installed([need.package for need in absent])
    if installed is None:
        return tuple(need.package for need in absent if need.program is not None)
    return tuple(need.package for need in absent if need.package not in installed)


def _installed(names: Sequence[str]) -> set[str] | None:
    if shutil.which("dpkg-query") is None:
        return None
    if not names:
        return set()
    argv = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names]
    # It fails when it does not know one of the names, and says so among the others.
    words = [line.split() for line in run(argv, seconds=30, check=False).stdout.splitlines()]
    return {found[0] for found in words if found[1:] == ["installed"]}


def install_command(packages: Sequence[str]) -> list[str]:
    """Return the command that installs packages, for root."""
    return ["apt-get", "install", "--yes", "--no-install-recommends", *packages]


def setup(say: Callable[[str], object], *, tests: bool = False) -> int:
    """Install what is missing, as root or with VMTESTS_SETUP=1 and sudo; otherwise say what root has to type.

    Args:
        say: told, in lines of text, what is done.
        tests: also what some of the unit tests want.

    Returns:
        0, or 3 when there is something to install that only root can, and that not only tests want.

    Raises:
        HostFailure: this is no Debian, or the installation failed.
    """
    needs = (*NEEDS, *TEST_NEEDS) if tests else NEEDS
    absent = missing(needs)
    if not absent:
        say("vmtests: every system package that is needed is installed")
        return ExitCode.PASSED
    if shutil.which("apt-get") is None:
        raise HostFailure(
            f"this host is {platform.system()} without apt-get; it lacks what Debian has in"
            f" {' '.join(absent)}: install that, or run vmtests on Debian 12 or 13"
        )
    why = {need.package: need.why for need in needs}
    for name in absent:
        say(f"vmtests: {name} is missing: {why[name]}")
    prefix = _privilege()
    if prefix is None:
        say("vmtests: type this (or set VMTESTS_SETUP=1, and vmtests will where sudo asks for no password):")
        say(f"    sudo sh -c 'apt-get update && {shlex.join(install_command(absent))}'")
        return ExitCode.HOST_FAILED if missing() else ExitCode.PASSED
    _install(prefix, absent)
    still = missing(needs)
    if still:
        raise HostFailure(f"apt-get installed {' '.join(absent)}, and yet {' '.join(still)} is missing")
    say(f"vmtests: installed {' '.join(absent)}")
    return ExitCode.PASSED


def _privilege() -> list[str] | None:
    """Return what a command needs in front to be run by root; None if we may not."""
    if os.geteuid() == 0:
        return []
    if os.environ.get(PERMISSION) != "1" or shutil.which("sudo") is None:
        return None
    return ["sudo", "-n"] if run(["sudo", "-n", "true"], seconds=30, check=False).returncode == 0 else None


def _install(prefix: Sequence[str], packages: Sequence[str]) -> None:
    apt = require("apt-get", package="apt")
    # `env`, because sudo passes no environment on. Another apt that is at work is waited for.
    quiet = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", apt, "-q", "-o", "DPkg::Lock::Timeout=300"]
    update = [*quiet, "update"]
    install = [*quiet, *install_command(packages)[1:]]
    if _lists_age() > _LISTS_EVERY:
        # A third party's archive that is down must not keep us from Debian's: the installation will tell.
        run(update, seconds=600, check=False)
    elif run(install, seconds=1800, check=False).returncode == 0:
        return
    else:
        # The lists name files that the mirror has replaced since.
        run(update, seconds=600, check=False)
    run(install, seconds=1800, what="installing the missing packages failed")


def _lists_age() -> float:
    """Return the age in seconds of the newest of apt's lists; infinite if there is none."""
    stamps = [path.stat().st_mtime for path in _LISTS.glob("*Release")]
    return time.time() - max(stamps) if stamps else float("inf")
