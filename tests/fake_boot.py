"""What boots a guest with the fake QEMU in the place of QEMU."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from vmtests.guest import Guest, Machine, boot, process
from vmtests.image import Image
from vmtests.kernel import Kernel

ROOT = Path(__file__).parent.parent

#: Called with words for the fake QEMU, and boot()'s keywords.
Booter = Callable[..., AbstractContextManager[Guest]]

_PROGRAMS = {
    "qemu-system-x86_64": '[ "$1" = --version ] && exec echo "QEMU emulator version 7.2.0"\n'
    f'PYTHONPATH={ROOT} exec {sys.executable} -m tests.fake_qemu "$@"',
    "usleep": "exec sleep 0.05",  # the guest's busybox has it
}


#: Of the fake image, an empty file.
EMPTY_SHA256 = hashlib.sha256().hexdigest()


def write_bzimage(path: Path) -> None:
    """Write the least that is taken for a kernel: the boot header, which announces nothing but itself."""
    path.write_bytes(bytes(0x202) + b"HdrS" + bytes(5 * 512 - 0x206))


@contextmanager
def booting(folder: Path) -> Iterator[Booter]:
    """Yield what boots guests in caches of their own below `folder`; in the end nothing must be left of them."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="vmt-") as runtime:
        patch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        # pytest's own folders are too long for sockets.
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        patch.setattr(process, "STEP_SECONDS", 0.5)
        yield _booter(folder)
        assert not [path for path in (folder / "cache/vmtests/guests").glob("*") if path.is_dir()]
        assert not [path for path in Path(runtime).glob("vmtests/*") if path.is_dir()]


def _booter(folder: Path) -> Booter:
    (folder / "bin").mkdir()
    for name, script in _PROGRAMS.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    for name in ("config", "guest.cpio"):
        (folder / name).touch()
    write_bzimage(folder / "bzImage")
    kernel = Kernel(
        name="base",
        release="7.3.4",
        image=folder / "bzImage",
        vmlinux=None,
        config=folder / "config",
        config_sha256="",
        source="",
        compiler="",
        patches=(),
        build_seconds=None,
        key="",
    )
    image = Image(folder / "guest.cpio", EMPTY_SHA256, "", {})
    machine = Machine("kvm")  # so that deadlines are not stretched; the fake does not look

    def start(*words: str, kernel: Kernel = kernel, **keywords: Any) -> AbstractContextManager[Guest]:
        return boot(kernel, image, machine, **{"evidence": folder / "evidence", "append": words, **keywords})

    return start
