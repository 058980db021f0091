"""A kernel that the user has built is taken over whole, and only if its files belong together."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.fake_bzimage import bzimage, vmlinux
from vmtests import kernel
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel.own import _BUILT_IN

CONFIG = "".join(f"{option}=y\n" for option in _BUILT_IN)
BUILD_ID, OTHER = "ab" * 20, "cd" * 20


pytestmark = pytest.mark.usefixtures("private_cache")


def built(folder: Path, *, inside: str = BUILD_ID, config: str | None = CONFIG, section: str = ".BTF") -> kernel.Recipe:
    """Return the recipe of the two files of a build, the image's kernel with the build id `inside`."""
    (folder / "vmlinux").write_bytes(vmlinux(BUILD_ID, config=config, section=section))
    image = bzimage(folder / "bzImage", gzip.compress(vmlinux(inside)))
    return kernel.resolve("image", image=image, vmlinux=folder / "vmlinux")


def test_a_kernel_of_the_users(tmp_path: Path) -> None:
    found = kernel.build(built(tmp_path))
    assert (found.name, found.release) == ("image", "7.3.4+deb13-cloud-amd64")
    assert found.compiler.startswith("x86_64-linux-gnu-gcc-14 (Debian")
    assert found.source == f"{tmp_path}/bzImage, build id {BUILD_ID}"
    assert found.config.read_text() == CONFIG
    assert (found.patches, found.build_seconds) == ((), None)
    assert found.vmlinux is not None
    # The next make changes the user's files, and not what a run has taken.
    copies = [found.image.read_bytes(), found.vmlinux.read_bytes()]
    for name in ("bzImage", "vmlinux"):
        (tmp_path / name).write_bytes(b"")
    assert [found.image.read_bytes(), found.vmlinux.read_bytes()] == copies


def test_the_config_may_be_a_file(tmp_path: Path) -> None:
    built(tmp_path, config=None)
    (tmp_path / "config").write_text(CONFIG + "CONFIG_MINE=y\n")
    recipe = kernel.resolve(
        "image", image=tmp_path / "bzImage", vmlinux=tmp_path / "vmlinux", config=tmp_path / "config"
    )
    assert kernel.build(recipe).config_values()["CONFIG_MINE"] == "y"


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"bzImage .build id {OTHER}. and .*vmlinux .build id {BUILD_ID}. are not of"):
        kernel.build(built(tmp_path, inside=OTHER))


def test_no_config_anywhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"vmlinux has no .config inside.*--config FILE"):
        kernel.build(built(tmp_path, config=None))


def test_a_kernel_that_needs_modules(tmp_path: Path) -> None:
    config = CONFIG.replace("CONFIG_VIRTIO_NET=y", "CONFIG_VIRTIO_NET=m")
    with pytest.raises(UsageError, match="built without CONFIG_VIRTIO_NET=y, which a guest needs"):
        kernel.build(built(tmp_path, config=config))


def test_a_kernel_without_debug_info(tmp_path: Path) -> None:
    with pytest.raises(HostFailure, match="has no debug info: build it with CONFIG_DEBUG_INFO_DWARF5 or"):
        kernel.build(built(tmp_path, section=".text"))


def test_only_one_of_the_two_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--kernel-image FILE and the vmlinux"):
        kernel.resolve("image", image=tmp_path / "bzImage")
    with pytest.raises(UsageError, match="kernel image .*nowhere cannot be read"):
        kernel.resolve("image", image=tmp_path / "nowhere", vmlinux=tmp_path / "nowhere")
