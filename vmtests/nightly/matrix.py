"""From nightly.toml to cells: a cell is one tree, one config, one kind of namespace, one clock, with all its boots.

A cell is what travels: all its boots run on one host, where the reference kernel boots beside the tree's.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vmtests.nightly.config import Config, Kind
from vmtests.nightly.outcome import RECORD
from vmtests.nightly.trees import Resolved

#: What a cell runs, before its options.
TESTS: tuple[str, ...] = (
    sys.executable,
    "-m",
    "pytest",
    "-p",
    "no:cacheprovider",
    "--pyargs",
    "vmtests.cases.test_rebind",
)


@dataclass(frozen=True)
class Cell:
    """One cell of a night.

    Attributes:
        name: such as "mainline-fsdax-dev-icount".
        kernel: the tree's kernel, as the run calls it; the same every night, so that history can follow it.
        reference: the kernel that it is held against.
        tree: the tree's name.
        folder, commit: of the tree, None for a recipe.
        argv: the command that runs it, with RECORD where the folder of its record goes.
        reproduce: what a person types to see it again.
        trouble: why the cell cannot run at all; its tree's ref could not be found.
    """

    name: str
    kernel: str
    reference: str
    tree: str
    folder: str | None
    commit: str | None
    argv: tuple[str, ...]
    reproduce: str
    trouble: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "argv": list(self.argv)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cell:
        """Return the cell."""
        return cls(**{**value, "argv": tuple(value["argv"])})


def cells(config: Config, resolved: Mapping[str, Resolved | str]) -> list[Cell]:
    """Return all cells of a night, those too that cannot run.

    Args:
        config: nightly.toml.
        resolved: by the tree's name, or why its commit is not known.
    """
    return [
        _cell(config, resolved, tree.name, kernel.name, kernel.fragments, kind, clock)
        for tree in config.trees
        for kernel in config.kernels
        for kind in config.kinds
        for clock in config.clocks
    ]


def _cell(
    config: Config,
    resolved: Mapping[str, Resolved | str],
    tree: str,
    kernel: str,
    fragments: tuple[Path, ...],
    kind: Kind,
    clock: str,
) -> Cell:
    plain = kernel == config.kernels[0].name
    name = f"{tree}{'' if plain else f'-{kernel}'}-{kind.spec.id}-{clock}"
    reference, found = resolved[config.reference.name], resolved[tree]
    trouble = next((one for one in (found, reference) if isinstance(one, str)), None)
    if isinstance(found, str) or isinstance(reference, str):
        return Cell(name, tree, config.reference.name, tree, None, None, (), "", trouble)
    options = [
        *("--kernel", reference.option, "--kernel", found.option),
        *(word for path in fragments for word in ("--config-fragment", str(path))),
        *("--mode", kind.spec.mode, "--map", kind.spec.map, "--align", kind.align, "--pmem-size", kind.pmem_size),
        *("--clock", clock, "--accel", config.accel, "--rebinds", str(config.rebinds), "--boots", config.boots),
    ]
    folder = None if found.folder is None else str(found.folder)
    argv = (*TESTS, *options, "--dump", "never", "--record", RECORD)
    reproduce = shlex.join(["pytest", "vmtests/", "-k", "rebind", *options])
    return Cell(name, found.name, reference.name, tree, folder, found.commit, argv, reproduce)
