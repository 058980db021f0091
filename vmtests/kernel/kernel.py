"""A kernel that can be booted: what all others know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtests.kernel import bzimage
from vmtests.kernel import config as kconfig
from vmtests.kernel.patches import Patch


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel that can be booted, in the cache."""

    name: str
    # As `uname -r` says it.
    release: str
    # The bzImage.
    image: Path
    # With debug info: DWARF, or BTF.
    vmlinux: Path | None
    # The whole .config.
    config: Path
    config_sha256: str
    # Such as "linux-source-7.3 7.3.4-1" or "/home/me/linux @ 0123456789ab (dirty)".
    source: str
    compiler: str
    patches: tuple[Patch, ...]
    # None: it was in the cache.
    build_seconds: float | None
    # The name of all that went into it.
    key: str
    # Unpacked, to be inserted in this order before there is pmem.
    modules: tuple[Path, ...] = ()
    # What was not committed in the user's tree.
    diff: Path | None = None
    # What the config that it was to be built with lacks and the tests need, such as "CONFIG_KPROBES=y".
    added_options: tuple[str, ...] = ()

    def config_values(self) -> Mapping[str, str]:
        """Return "CONFIG_X" to its value as it stands in the .config; what is not set is absent."""
        return kconfig.values(self.config)

    def verify(self) -> None:
        """See that the image is there and whole; HostFailure if not."""
        bzimage.verify(self.image, f"the image of kernel {self.name}")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "release": self.release,
            "image": str(self.image),
            "vmlinux": str(self.vmlinux) if self.vmlinux else None,
            "config": str(self.config),
            "config_sha256": self.config_sha256,
            "source": self.source,
            "compiler": self.compiler,
            "patches": [patch.to_json() for patch in self.patches],
            "build_seconds": self.build_seconds,
            "key": self.key,
            "modules": [str(path) for path in self.modules],
            "diff": str(self.diff) if self.diff else None,
            "added_options": list(self.added_options),
        }
