"""A kernel that does not build is named in the run record: the fault of its source, and of no host."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests import fake_kernel
from tests.test_kernel_build import private_cache, recipe_of, tree
from vmtests.errors import ExitCode, HostFailure
from vmtests.report.progress import Progress
from vmtests.run.options import Options
from vmtests.run.run import Run

__all__ = ["private_cache", "tree"]


def test_the_record_names_what_does_not_build(tree: Path, tmp_path: Path) -> None:
    patch = fake_kernel.patch(tree, "mm/mm_init.c", "int page7;", "lung page7;", tmp_path / "a.patch")
    run = Run(Options(record=tmp_path / "record"), ["pytest"], Progress(io.StringIO()))
    run.add(recipe_of(tree, patch))
    with pytest.raises(HostFailure, match="lung"):
        run.kernel("patch")
    run.save(ExitCode.HOST_FAILED)
    [unbuildable] = json.loads((tmp_path / "record/run.json").read_text())["unbuildable"]
    assert unbuildable["kernel"] == "patch"
    assert "building kernel patch failed" in unbuildable["reason"]
    assert "lung" in unbuildable["reason"]


def test_a_full_disk_is_no_fault_of_the_source(tree: Path, tmp_path: Path) -> None:
    patch = fake_kernel.patch(
        tree, "mm/mm_init.c", "int page7;", '#error "No space left on device"\nint page7;', tmp_path / "a.patch"
    )
    run = Run(Options(record=tmp_path / "record"), ["pytest"], Progress(io.StringIO()))
    run.add(recipe_of(tree, patch))
    with pytest.raises(HostFailure, match="No space left"):
        run.kernel("patch")
    assert run.record.unbuildable == {}
