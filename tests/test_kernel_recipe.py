from __future__ import annotations

from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests import data, kernel
from vmtests.errors import HostFailure, UsageError


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "kernels"
    for name in ("fragments", "patches/fast"):
        (folder / name).mkdir(parents=True)
    (folder / "fragments/base.config").write_text(fake_kernel.FRAGMENT)
    (folder / "patches/fast/0002-b.patch").write_text("b")
    (folder / "patches/fast/0001-a.patch").write_text("a")
    (folder / "base.toml").write_text('series = "7.3"\nfragments = ["base.config"]\n[absent]\n"mm/x.c" = "fast"\n')
    (folder / "patched.toml").write_text('inherits = "base"\npatches = "fast"\n')
    monkeypatch.setattr(data, "folder", lambda _: folder)
    return folder


def test_the_recipes_that_we_ship() -> None:
    assert {"base", "patched"} <= set(kernel.known())
    steps = [kernel.load(name) for name in ("patched-1", "patched-2", "patched-3", "patched")]
    assert [len(step.patches) for step in steps] == [1, 2, 3, 4]
    base, patched = kernel.load("base"), kernel.load("patched")
    assert not base.patches
    assert patched.patches
    assert (base.series, base.fragments) == (patched.series, patched.fragments)
    assert base.absent


def test_inherits_and_orders_its_patches(kernels: Path) -> None:
    patched = kernel.load("patched")
    assert patched.series == "7.3"
    assert patched.absent == (("mm/x.c", "fast"),)
    assert [patch.name for patch in patched.patches] == ["0001-a.patch", "0002-b.patch"]
    assert patched.fragments == (kernels / "fragments/base.config",)
    assert patched.describe() == "linux-source-7.3, base.config, 0001-a.patch, 0002-b.patch, gcc"


def test_stops_at_a_patch(kernels: Path) -> None:
    (kernels / "patched-1.toml").write_text('inherits = "patched"\nupto = 1\n')
    assert [patch.name for patch in kernel.load("patched-1").patches] == ["0001-a.patch"]


@pytest.mark.usefixtures("kernels")
def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"no kernel is called 'pached': known are base, patched, and patch"):
        kernel.resolve("pached")


@pytest.mark.usefixtures("kernels")
def test_patch_is_base_and_the_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.patch"
    file.write_text("mine")
    recipe = kernel.resolve("patch", patches=[file])
    assert (recipe.name, [patch.path for patch in recipe.patches]) == ("patch", [file])
    assert not kernel.resolve("base", patches=[file]).patches
    with pytest.raises(UsageError, match="there are none"):
        kernel.resolve("patch")
    with pytest.raises(UsageError, match=r"gone.patch cannot be read"):
        kernel.resolve("patch", patches=[tmp_path / "gone.patch"])


@pytest.mark.usefixtures("kernels")
def test_trees(tmp_path: Path) -> None:
    for name in ("all", "own", "odd@name"):
        (tmp_path / name).mkdir()
    for name in ("own", "odd@name"):
        for number in (1, 2):
            (tmp_path / name / "file").write_text(f"{number}\n")
            fake_kernel.commit(tmp_path / name)
        fake_kernel.git(tmp_path / name, "tag", "v7.3")
    trees = {"own": f"{tmp_path}/own@v7.3", "odd": f"{tmp_path}/odd@name@HEAD@{{1}}"}

    def source(name: str) -> str:
        return kernel.resolve(name, sources=trees, tree=str(tmp_path / "all")).source

    assert source("patched") == str(tmp_path / "all")
    assert source("own") == f"{tmp_path}/own@v7.3"
    assert source("odd") == f"{tmp_path}/odd@name@HEAD@{{1}}"
    with pytest.raises(UsageError, match="there is no kernel tree /nowhere"):
        kernel.resolve("base", tree="/nowhere@HEAD")
    with pytest.raises(UsageError, match="has no revision 'v7.4'"):
        kernel.resolve("base", tree=f"{tmp_path}/own@v7.4")
    with pytest.raises(UsageError, match="no name for a kernel"):
        kernel.resolve("a/b", sources={"a/b": str(tmp_path)})


@pytest.mark.usefixtures("kernels")
def test_config_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.config"
    with pytest.raises(UsageError, match=r"mine.config cannot be read"):
        kernel.resolve("base", fragments=[file])
    file.write_text("CONFIG_NUMA=y\n")
    recipe = kernel.resolve("base", config=file, fragments=[file], cc="gcc-14")
    assert (recipe.config, recipe.extra_fragments, recipe.cc) == (file, (file,), "gcc-14")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sories = "7.3"', "no recipe has 'sories'"),
        ("series = 7.3", r"series must be a str, and is 7.3"),
        ('inherits = "loop"', "inherits from itself, loop -> loop"),
        ('inherits = "gone"', r"gone.toml: the recipe cannot be read"),
        ("series", "the recipe cannot be read"),
        ('series = "7.3"', "lacks fragments"),
        ('inherits = "base"\npatches = "none"', "there is no patch in"),
        ('inherits = "patched"\nupto = 3', "upto is 3, and there are 2 patches"),
        ('inherits = "patched"\nupto = 0', "upto is 0, and there are 2 patches"),
        ('inherits = "base"\nupto = 1', "upto is 1, and there are 0 patches"),
    ],
)
def test_bad_recipes(kernels: Path, text: str, message: str) -> None:
    (kernels / "loop.toml").write_text(text)
    with pytest.raises(HostFailure, match=message):
        kernel.load("loop")
