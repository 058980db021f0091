from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests import fake_kernel
from vmtests import cache, kernel
from vmtests.errors import HostFailure

building = importlib.import_module("vmtests.kernel.build")  # the package has a function of this name


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "_ROOM", 0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = fake_kernel.make(tmp_path / "tree")
    fake_kernel.commit(tree)
    return tree


def recipe_of(tree: Path, *patches: Path, fragment: str = fake_kernel.FRAGMENT) -> kernel.Recipe:
    path = tree.parent / "base.config"
    path.write_text(fragment)
    return kernel.Recipe(
        name="patch" if patches else "base",
        series="7.3",
        source=str(tree),
        fragments=(path,),
        patches=tuple(map(kernel.Patch.read, patches)),
    )


def compiled(built: kernel.Kernel) -> list[str]:
    log = (built.image.parent / "build.log").read_text()
    return [line.split()[1] for line in log.splitlines() if line.startswith("  CC ")]


def test_a_kernel(tree: Path) -> None:
    said: list[str] = []
    built = kernel.build(recipe_of(tree), progress=said.append)
    assert built.build_seconds is not None
    assert built.release == "7.3.4-fake"
    assert built.image.stat().st_size
    assert built.vmlinux is not None
    assert built.vmlinux.exists()
    assert built.config_values() == {"CONFIG_MODULES": "y"}
    assert built.compiler.startswith("gcc")
    assert sorted(compiled(built)) == ["lib/string.o", "mm/mm_init.o"]
    assert {"1 objects compiled", "2 objects compiled"} <= set(said)
    assert built.to_json()["config_sha256"] == built.config_sha256

    again = kernel.build(recipe_of(tree))
    assert again.build_seconds is None
    assert (again.key, again.image) == (built.key, built.image)


def test_one_file_alone(tree: Path) -> None:
    path = kernel.compile_object(recipe_of(tree), "mm/mm_init.o")
    assert b"page7" in path.read_bytes()
    assert sorted(child.name for child in path.parent.iterdir()) == ["mm_init.o"]
    assert not (cache.root() / "kernels").exists()
    assert kernel.compile_object(recipe_of(tree), "mm/mm_init.o") == path


def test_one_file_that_does_not_compile(tree: Path) -> None:
    kernel.build(recipe_of(tree))
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "lung page7;", tree.parent / "a.patch")
    with pytest.raises(HostFailure, match=r"compiling mm/mm_init\.o of kernel patch failed: .*lung"):
        kernel.compile_object(recipe_of(tree, patch), "mm/mm_init.o")
    assert not list((cache.root() / "objects").glob("[!.]*"))


def test_a_variant_compiles_what_its_patch_changes(tree: Path) -> None:
    base = kernel.build(recipe_of(tree))
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "long page7;", tree.parent / "a.patch")
    variant = kernel.build(recipe_of(tree, patch))
    assert compiled(variant) == ["mm/mm_init.o"]
    assert variant.key != base.key
    assert [patch.name for patch in variant.patches] == ["a.patch"]
    pristine = next((cache.root() / "sources").glob("git-*"))
    assert "int page7;" in (pristine / "mm/mm_init.c").read_text()
    assert not (variant.image.parent / "linux").exists()
    assert not (variant.image.parent / "objects").exists()


def test_a_variant_builds_its_base_first(tree: Path) -> None:
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "long page7;", tree.parent / "a.patch")
    variant = kernel.build(recipe_of(tree, patch))
    assert compiled(variant) == ["mm/mm_init.o"]
    assert kernel.build(recipe_of(tree)).build_seconds is None


def test_another_config_compiles_what_depends_on_it(tree: Path) -> None:
    kernel.build(recipe_of(tree))
    other = kernel.build(recipe_of(tree, fragment=fake_kernel.FRAGMENT + "CONFIG_NUMA=y\n"))
    assert compiled(other) == ["mm/mm_init.o"]
    assert other.config_values()["CONFIG_NUMA"] == "y"


def test_another_source_compiles_everything(tree: Path, tmp_path: Path) -> None:
    kernel.build(recipe_of(tree))
    other = fake_kernel.make(tmp_path / "other")
    (other / "README").write_text("not a commit of that repository\n")
    fake_kernel.commit(other)
    assert len(compiled(kernel.build(recipe_of(other)))) == 2


def test_another_commit_compiles_what_differs(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "lib/string.c").write_text("int other;\n")
    fake_kernel.commit(tree)
    # Its tree is there before anything is built: its files must not be taken for older than the other's objects.
    source = importlib.import_module("vmtests.kernel.source")
    source.find(f"{tree}@HEAD", "7.3").tree()
    first = kernel.build(replace(recipe_of(tree), source=f"{tree}@HEAD~1"))
    assert len(compiled(first)) == 2
    second = kernel.build(replace(recipe_of(tree), source=f"{tree}@HEAD"))
    assert compiled(second) == ["lib/string.o"]
    # It has no objects of its own, so a variant of it starts from the first one's too.
    assert not (second.image.parent / "objects").exists()
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "long page7;", tree.parent / "a.patch")
    assert sorted(compiled(kernel.build(recipe_of(tree, patch)))) == ["lib/string.o", "mm/mm_init.o"]
    # They are kept where that saves much.
    monkeypatch.setattr(building, "_WORTH_KEEPING", 1)
    (tree / "lib/string.c").write_text("int third;\n")
    fake_kernel.commit(tree)
    third = kernel.build(recipe_of(tree))
    assert compiled(third) == ["lib/string.o"]
    assert (third.image.parent / "objects").is_dir()
    vmlinux = third.vmlinux
    assert vmlinux is not None
    assert b"third" in vmlinux.read_bytes()
    assert b"other" not in vmlinux.read_bytes()


def test_uncommitted_edits_are_a_variant_too(tree: Path) -> None:
    (tree / "lib/string.c").write_text("int edited;\n")
    built = kernel.build(recipe_of(tree))
    assert compiled(built) == ["lib/string.o"]
    assert built.source.endswith("(dirty)")
    assert built.diff is not None
    assert "+int edited;" in built.diff.read_text()
    assert built.patches == ()


def test_a_base_that_does_not_compile_does_not_stop_what_mends_it(tree: Path) -> None:
    good = (tree / "lib/string.c").read_text()
    (tree / "lib/string.c").write_text("int half")
    fake_kernel.commit(tree)
    (tree / "lib/string.c").write_text(good)
    said: list[str] = []
    built = kernel.build(recipe_of(tree), progress=said.append)
    assert len(compiled(built)) == 2
    assert "what it is based on does not build: building it whole" in said


def test_same_content_same_bytes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernel.build(recipe_of(tree)).vmlinux
    assert first is not None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another/cache"))
    second = kernel.build(recipe_of(tree)).vmlinux
    assert second is not None
    assert second != first
    assert second.read_bytes() == first.read_bytes()


def test_what_changes_the_key(tree: Path) -> None:
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "long page7;", tree.parent / "a.patch")
    keys = [kernel.build(recipe_of(tree)).key, kernel.build(recipe_of(tree, patch)).key]
    patch.write_text(patch.read_text().replace("long page7;", "char page7;"))
    keys.append(kernel.build(recipe_of(tree, patch)).key)
    keys.append(kernel.build(recipe_of(tree, fragment=fake_kernel.FRAGMENT + "CONFIG_NUMA=y\n")).key)
    (tree / "README").write_text("new\n")
    fake_kernel.commit(tree)
    keys.append(kernel.build(recipe_of(tree)).key)
    assert len(set(keys)) == len(keys)
    # A comment does not.
    assert kernel.build(recipe_of(tree, fragment=f"# why\n{fake_kernel.FRAGMENT}")).key == keys[-1]


def test_a_compile_error_is_quoted_and_its_log_is_kept(tree: Path) -> None:
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "int page7 = nothing;", tree.parent / "a.patch")
    with pytest.raises(HostFailure) as failure:
        kernel.build(recipe_of(tree, patch))
    assert "building kernel patch failed: ../mm/mm_init.c:8:13: error: 'nothing' undeclared" in failure.value.message
    [log] = failure.value.evidence
    assert "'nothing' undeclared" in log.read_text()
    assert not list((cache.root() / "kernels").glob(".*.tmp"))


def test_a_lost_config_line_is_named(tree: Path) -> None:
    with pytest.raises(kernel.BuildFailure) as failure:
        kernel.build(recipe_of(tree, fragment="CONFIG_NEEDY=y\n"))
    assert "drops 1 of the 1 config lines that are asked for" in failure.value.message
    assert "base.config:1): it is not set; Kconfig:10: depends on (NUMA && ABSENT)" in failure.value.message


def test_what_a_given_config_lacks_is_told(tree: Path, tmp_path: Path) -> None:
    given = tmp_path / "my.config"
    given.write_text("CONFIG_NUMA=y\n")
    built = kernel.build(replace(recipe_of(tree), config=given))
    assert built.added_options == ("CONFIG_MODULES=y",)
    assert built.config_values() == {"CONFIG_NUMA": "y", "CONFIG_MODULES": "y"}
    assert kernel.build(recipe_of(tree)).added_options == ()


def test_a_patch_may_bring_an_option(tree: Path) -> None:
    patch = fake_kernel.patch(
        tree, "Kconfig", "config NEEDY", "config NEW\n\tbool 'new'\nconfig NEEDY", tree.parent / "k"
    )
    built = kernel.build(recipe_of(tree, patch, fragment="CONFIG_NEW=y\nCONFIG_MODULES=y\n"))
    assert built.config_values()["CONFIG_NEW"] == "y"
    with pytest.raises(HostFailure, match="this source has no such option"):
        kernel.build(recipe_of(tree, fragment="CONFIG_NEW=y\n"))


def test_a_patch_that_does_not_apply_leaves_nothing(tree: Path) -> None:
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "long page7;", tree.parent / "a.patch")
    (tree / "mm/mm_init.c").write_text("int other;\n")
    fake_kernel.commit(tree)
    said: list[str] = []
    with pytest.raises(HostFailure, match=r"hunk 1 of mm/mm_init\.c"):
        kernel.build(recipe_of(tree, patch), progress=said.append)
    assert not any("compiled" in line for line in said)  # it is known before the base is built
    assert not list((cache.root() / "kernels").glob(".*.tmp"))


def test_too_little_disk(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_ROOM", 1 << 60)
    with pytest.raises(HostFailure, match=r"needs 1073741824 GiB and .* GiB free"):
        kernel.build(recipe_of(tree))


def test_a_folder_that_make_cannot_take(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    with pytest.raises(HostFailure, match="without ' ' and ':'"):
        kernel.build(recipe_of(tree))


def build_in_child(tree: Path, results: multiprocessing.Queue[float | None]) -> None:
    results.put(kernel.build(recipe_of(tree)).build_seconds)


def test_two_at_once_build_it_once(tree: Path) -> None:
    slow = (tree / "Makefile").read_text().replace('@echo "  LD', '@sleep 0.3; echo "  LD')
    (tree / "Makefile").write_text(slow)
    fake_kernel.commit(tree)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[float | None] = context.Queue()
    children = [context.Process(target=build_in_child, args=(tree, results)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(list((cache.root() / "kernels").glob("*/kernel.json"))) == 1


def test_killed_in_the_middle(tree: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    slow = (tree / "Makefile").read_text().replace('@echo "  LD', f'@touch {started}; sleep 0.5; echo "  LD')
    (tree / "Makefile").write_text(slow)
    fake_kernel.commit(tree)
    recipe_of(tree)
    program = (
        "import sys; from pathlib import Path; from tests import test_kernel_build as t;"
        "t.building._ROOM = 0; t.kernel.build(t.recipe_of(Path(sys.argv[1])))"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tree], cwd=Path(__file__).parents[1], env={**os.environ})
    deadline = time.monotonic() + 30
    while not started.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert started.exists()
    assert not list((cache.root() / "kernels").glob("*/kernel.json"))
    assert list((cache.root() / "kernels").glob(".*.tmp"))
    # Whatever is built next clears away what is left; and the killed one can be built.
    kernel.build(recipe_of(tree, fragment=fake_kernel.FRAGMENT + "CONFIG_NUMA=y\n"))
    assert not list((cache.root() / "kernels").glob(".*.tmp"))
    assert kernel.build(recipe_of(tree)).image.exists()
