"""Debian's own build of a kernel, for clouds: unpacked into the cache, installed nowhere, and no compiler is needed.

An entry `kernels/stock-SERIES/` has what one of a kernel that was built here has, and `modules/`. Its vmlinux is that
of the image: with BTF, without DWARF.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from vmtests import cache
from vmtests.debian import NEWER_SUITES, Archive, unpack
from vmtests.errors import HostFailure
from vmtests.kernel import modules
from vmtests.kernel.kernel import Kernel
from vmtests.kernel.vmlinux import banner, extract

# Small, and with all that a virtual machine needs.
_FLAVOUR = "cloud-amd64"

# The packages that a kernel is spread over since 7.3; before, linux-image has everything.
_PARTS = ("image", "binary", "modules", "base")

# Where they put a file, by what it is.
_PLACES = {
    "image": ("boot/vmlinuz-{release}", "usr/lib/modules/{release}/vmlinuz"),
    "config": ("boot/config-{release}", "usr/lib/modules/{release}/config"),
    "modules": ("usr/lib/modules/{release}/kernel", "lib/modules/{release}/kernel"),
}


def fetch(name: str, series: str, progress: Callable[[str], None]) -> Kernel:
    """Return Debian's newest kernel of a series at the first call, from then on the one in the cache.

    Args:
        name: the kernel's name here.
        series: such as "7.3".
        progress: told what is being done.

    Raises:
        HostFailure: the archive cannot be reached, or has no such kernel.
    """
    entry = cache.entry(
        "kernels",
        f"stock-{series}",
        lambda to: _fill(to, series, progress),
        waiting=lambda: progress("another run is fetching it: waiting"),
    )
    said = json.loads((entry / "kernel.json").read_text())
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
    inserted = said.pop("modules")
    return Kernel(
        name=name,
        **said,
        image=entry / "bzImage",
        vmlinux=entry / "vmlinux",
        config=entry / "config",
        patches=(),
        build_seconds=None,
        key=key,
        modules=tuple(entry / "modules" / file for file in inserted),
    )


def _fill(to: Path, series: str, progress: Callable[[str], None]) -> None:
    archive = Archive.open(NEWER_SUITES)
    package = archive.newest(f"linux-image-{series}.*-{_FLAVOUR}")
    release = package.name.removeprefix("linux-image-")
    scratch = to / "packages"
    scratch.mkdir()
    for part in _PARTS:
        for found in archive.packages(f"linux-{part}-{release}"):
            if found.version == package.version:
                progress(f"downloading {found.name}")
                unpack(archive.download(found, scratch), scratch / "root")
                break
    files = {what: _find(scratch / "root", what, release) for what in _PLACES}
    progress("unpacking")
    shutil.copy(files["image"], to / "bzImage")
    shutil.copy(files["config"], to / "config")
    inserted = modules.unpack(files["modules"].parent, to / "modules")
    code = extract(to / "bzImage")
    (to / "vmlinux").write_bytes(code)
    said = {
        **asdict(banner(code, package.name)),
        "config_sha256": hashlib.sha256((to / "config").read_bytes()).hexdigest(),
        "source": f"{package.name} {package.version}",
        "modules": inserted,
    }
    (to / "kernel.json").write_text(json.dumps(said, indent=1) + "\n")
    shutil.rmtree(scratch)


def _find(root: Path, what: str, release: str) -> Path:
    for place in _PLACES[what]:
        if (path := root / place.format(release=release)).exists():
            return path
    places = ", ".join(place.format(release=release) for place in _PLACES[what])
    raise HostFailure(f"Debian's kernel {release} has its {what} in none of {places}: its packages have changed")
