"""Programs that are borrowed from Debian's archive: newer than the host's, or not installed there at all.

Nothing is installed: a program is unpacked into the cache with all that it depends on, and runs on its own libraries
and loader, because a newer one wants a newer C library than the host's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vmtests import cache
from vmtests.debian import NEWER_SUITES, Archive, unpack
from vmtests.errors import HostFailure

_LOADERS = ("lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
_PLACES = ("usr/bin", "usr/sbin", "bin", "sbin")


@dataclass(frozen=True)
class Borrowed:
    """An unpacked program.

    Args:
        name: of the program and of its package.
        folder: where its packages are, merged.
        version: of the package.
    """

    name: str
    folder: Path
    version: str

    @classmethod
    def fetch(cls, name: str) -> Borrowed:
        """Return the newest such program of Debian's archive at the first call, from then on the one in the cache.

        Raises:
            HostFailure: the archive cannot be reached.
        """
        folder = cache.entry("packages", name, _unpack(name))
        return cls(name, folder, json.loads((folder / "versions.json").read_text())[name])

    def argv(self, *arguments: str) -> list[str]:
        """Return the command that runs it.

        Raises:
            HostFailure: its files are not there any more.
        """
        loader = next((path for path in (self.folder / name for name in _LOADERS) if path.exists()), None)
        places = (self.folder / place / self.name for place in _PLACES)
        program = next((path for path in places if path.exists()), None)
        if loader is None or program is None:
            raise HostFailure(f"{self.folder} has no {self.name} with its loader: remove that folder to get it again")
        libraries = ":".join(str(self.folder / name) for name in _LIBRARIES)
        return [str(loader), "--library-path", libraries, str(program), *arguments]


def _unpack(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        versions = {}
        with tempfile.TemporaryDirectory(dir=folder) as downloads:
            for deb in Archive.open(NEWER_SUITES).download_with_dependencies([name], Path(downloads)):
                package, version, _ = deb.name.split("_")
                versions[package] = version.replace("%3a", ":")
                unpack(deb, folder)
        (folder / "versions.json").write_text(json.dumps(versions, indent=1, sort_keys=True))

    return make
