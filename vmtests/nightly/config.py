"""What the nightly runs, as nightly.toml says it: checked against schema.json before anything starts."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from vmtests.errors import UsageError
from vmtests.nightly.outcome import Ignored
from vmtests.pmem import NamespaceSpec
from vmtests.run.options import parse_duration, parse_size


@dataclass(frozen=True)
class Tree:
    """Where a kernel's source is: a git tree by `path` or `remote` at `ref`, or the recipe that has the name.

    `depth` limits what is fetched of a remote; its alerts then cannot list the commits between two nights.
    """

    name: str
    path: Path | None = None
    remote: str | None = None
    ref: str | None = None
    depth: int | None = None


@dataclass(frozen=True)
class KernelConfig:
    """A config that each tree is built with: the small one, and these files of Kconfig lines."""

    name: str
    fragments: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of namespace, and the size of the NVDIMM that it lies on."""

    spec: NamespaceSpec
    align: str
    pmem_size: str


@dataclass(frozen=True, kw_only=True)
class Config:
    """nightly.toml. `digest` changes when it does; `seconds` is the night's deadline, `disk` a budget in bytes."""

    path: Path
    digest: str
    seconds: float
    disk: int
    retries: int
    rebinds: int
    boots: str
    accel: str
    clocks: tuple[str, ...]
    reference: Tree
    trees: tuple[Tree, ...]
    kernels: tuple[KernelConfig, ...]
    kinds: tuple[Kind, ...]
    ignored: tuple[Ignored, ...]
    avocado: dict[str, Any] = field(default_factory=dict)


def read(path: Path) -> Config:
    """Read and check nightly.toml.

    Raises:
        UsageError: naming the field and the rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
        said = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    schema = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(said))
    if wrong is not None:
        where = ".".join(str(part) for part in wrong.absolute_path) or "the file"
        raise UsageError(f"{path}: {where}: {wrong.message}")
    base = path.resolve().parent
    size = said.get("pmem_size", "100G")
    config = Config(
        path=path.resolve(),
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        seconds=parse_duration("deadline =", said["deadline"]),
        disk=parse_size(said["disk"]),
        retries=said.get("retries", 1),
        rebinds=said.get("rebinds", 30),
        boots=said.get("boots", "auto"),
        accel=said.get("accel", "auto"),
        clocks=tuple(said["clocks"]),
        reference=_tree(said["reference"], base),
        trees=tuple(_tree(one, base) for one in said["tree"]),
        kernels=tuple(_kernel(one, base) for one in said.get("kernel", [{"name": "small"}])),
        kinds=tuple(_kind(one, size) for one in said["namespace"]),
        ignored=tuple(_ignored(one, path) for one in said.get("ignore", ())),
        avocado=dict(said.get("avocado", {})),
    )
    _check_names(config)
    return config


def _tree(said: dict[str, Any], base: Path) -> Tree:
    path = (base / Path(said["path"]).expanduser()).resolve() if "path" in said else None
    return Tree(said["name"], path, said.get("remote"), said.get("ref"), said.get("depth"))


def _kernel(said: dict[str, Any], base: Path) -> KernelConfig:
    fragments = tuple((base / Path(name).expanduser()).resolve() for name in said.get("fragments", ()))
    return KernelConfig(said["name"], fragments)


def _kind(said: dict[str, Any], size: str) -> Kind:
    align = said.get("align", "2M")
    kind = Kind(NamespaceSpec(said["mode"], said["map"], parse_size(align)), align, said.get("pmem_size", size))
    parse_size(kind.pmem_size)
    return kind


def _ignored(said: dict[str, Any], path: Path) -> Ignored:
    try:
        re.compile(said["line"])
    except re.error as error:
        raise UsageError(f"{path}: ignore: {said['line']!r} is no regular expression: {error}") from None
    return Ignored(said["line"], said["reason"])


def _check_names(config: Config) -> None:
    """Refuse what would make two cells, or two kernels of one cell, go by one name."""
    for what, names in (
        ("reference and tree", [config.reference.name, *(tree.name for tree in config.trees)]),
        ("kernel", [kernel.name for kernel in config.kernels]),
        ("namespace", [kind.spec.id for kind in config.kinds]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(f"{config.path}: {what}: {', '.join(twice)} is there twice: each needs a name of its own")
