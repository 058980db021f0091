"""A kernel that the user has built: a bzImage and the vmlinux of the same build, taken over as they are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from vmtests import cache
from vmtests.elf import build_id
from vmtests.errors import UsageError
from vmtests.kernel import config as kconfig
from vmtests.kernel.kernel import Kernel
from vmtests.kernel.vmlinux import banner, embedded_config, extract, has_dwarf

# What a guest needs before there could be a module, of which an image brings none.
_BUILT_IN = (
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_DEVTMPFS",
    "CONFIG_SERIAL_8250_CONSOLE",
    "CONFIG_VIRTIO_PCI",
    "CONFIG_VIRTIO_CONSOLE",
    "CONFIG_VIRTIO_NET",
    "CONFIG_ACPI_NFIT",
    "CONFIG_BLK_DEV_PMEM",
    "CONFIG_FW_CFG_SYSFS",
    "CONFIG_CRASH_DUMP",
)


def take(name: str, image: Path, vmlinux: Path, config: Path | None, progress: Callable[[str], None]) -> Kernel:
    """Copy the files into the cache, where the next build does not change them, and return the kernel.

    Args:
        name: the kernel's name here.
        image: a bzImage.
        vmlinux: with DWARF or BTF.
        config: its .config; None is the one that CONFIG_IKCONFIG has put inside.
        progress: told what is being done.

    Raises:
        UsageError: the two are of different builds, there is no config, or it lacks what a guest needs.
        HostFailure: a file that is not what it should be.
    """
    has_dwarf(vmlinux)  # or BTF
    identity = build_id(vmlinux)
    code = vmlinux.read_bytes()
    settings = config.read_bytes() if config is not None else embedded_config(code)
    if settings is None:
        raise UsageError(
            f"{vmlinux} has no .config inside, as CONFIG_IKCONFIG=y puts it there: name it by --config FILE"
        )
    key = hashlib.sha256(b"\0".join([b"own", image.read_bytes(), str(identity).encode(), settings])).hexdigest()[:32]

    def fill(to: Path) -> None:
        progress("copying")
        shutil.copyfile(image, to / "bzImage")
        shutil.copyfile(vmlinux, to / "vmlinux")
        (to / "config").write_bytes(settings)
        (to / "inside").write_bytes(extract(to / "bzImage"))
        inside = build_id(to / "inside")
        if identity is None or inside != identity:
            raise UsageError(
                f"{image} (build id {inside}) and {vmlinux} (build id {identity}) are not of one build: give the files "
                "that one make has left"
            )
        (to / "inside").unlink()
        (to / "kernel.json").write_text(json.dumps(asdict(banner(code, str(vmlinux)))) + "\n")

    entry = cache.entry("kernels", key, fill)
    lacks = [option for option in _BUILT_IN if kconfig.values(entry / "config").get(option) != "y"]
    if lacks:
        raise UsageError(
            f"the kernel of {image} is built without {', '.join(f'{option}=y' for option in lacks)}, which a guest "
            "needs; no modules go with an image"
        )
    return Kernel(
        name=name,
        **json.loads((entry / "kernel.json").read_text()),
        image=entry / "bzImage",
        vmlinux=entry / "vmlinux",
        config=entry / "config",
        config_sha256=hashlib.sha256(settings).hexdigest(),
        source=f"{image}, build id {identity}",
        patches=(),
        build_seconds=None,
        key=key,
    )
