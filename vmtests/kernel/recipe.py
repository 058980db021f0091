"""Recipes: what a kernel is made of.

`kernels/NAME.toml` has:

    inherits = "base"           what is not said here is as there
    series = "7.3"              Debian's linux-source-SERIES
    source = "debian"           or DIR[@REV]; "stock" is Debian's own build of the series, which nothing else applies to
    fragments = ["base.config"] files in kernels/fragments, in this order
    patches = "folder"          a folder in kernels/patches, its *.patch applied in the order of their names
    upto = 2                    of those, only as many
    cc = "gcc"
    [absent]                    words that the source must not have: it would not be what the recipe takes it for
    "mm/mm_init.c" = "template"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vmtests import data
from vmtests.errors import HostFailure, UsageError
from vmtests.kernel.patches import Patch
from vmtests.kernel.source import DEBIAN, STOCK, check, split

#: The name that --patch makes.
PATCH = "patch"
#: The name that --kernel-image makes.
IMAGE = "image"

_KEYS = {
    "inherits": str,
    "series": str,
    "source": str,
    "fragments": list,
    "patches": str,
    "upto": int,
    "cc": str,
    "absent": dict,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a kernel is made of."""

    name: str
    # Debian's linux-source-SERIES, if source is "debian".
    series: str
    # "debian", "stock", or a tree of the user's, DIR[@REV].
    source: str = DEBIAN
    # What the config asks for, on top of tinyconfig.
    fragments: tuple[Path, ...]
    # A config to start from instead of tinyconfig; of the fragments only what they switch on is asked for then.
    config: Path | None = None
    # Asked for in any case, last.
    extra_fragments: tuple[Path, ...] = ()
    patches: tuple[Patch, ...] = ()
    cc: str = "gcc"
    # (file, word): the file of the source must not contain the word.
    absent: tuple[tuple[str, str], ...] = ()
    # A bzImage and its vmlinux that the user has built: of the above only `config` says something then.
    files: tuple[Path, Path] | None = None

    def describe(self) -> str:
        """Return one line about it."""
        if self.files is not None:
            return f"{self.files[0]}, not built here"
        if self.source == STOCK:
            return f"Debian's own build of {self.series} for virtual machines, not built here"
        origin = f"linux-source-{self.series}" if self.source == DEBIAN else self.source
        start = [str(self.config)] if self.config else []
        config = " + ".join([*start, *(path.name for path in (*self.fragments, *self.extra_fragments))])
        patches = ", ".join(patch.name for patch in self.patches) or "no patches"
        return f"{origin}, {config}, {patches}, {self.cc}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "name": self.name,
            "series": self.series,
            "source": self.source,
            "fragments": [str(path) for path in (*self.fragments, *self.extra_fragments)],
            "config": str(self.config) if self.config else None,
            "patches": [patch.to_json() for patch in self.patches],
            "cc": self.cc,
        }


def known() -> tuple[str, ...]:
    """Return the names that there are recipes for."""
    return tuple(sorted(path.stem for path in data.folder("kernels").glob("*.toml")))


def load(name: str) -> Recipe:
    """Return the recipe `kernels/NAME.toml`; UsageError for a name that is not known."""
    if name not in known():
        raise UsageError(f"no kernel is called {name!r}: known are {', '.join(known())}, and {PATCH} with --patch FILE")
    return _recipe(name, _read(name, ()))


def resolve(
    name: str,
    *,
    sources: Mapping[str, str] | None = None,
    tree: str | None = None,
    patches: Sequence[Path] = (),
    config: Path | None = None,
    fragments: Sequence[Path] = (),
    cc: str | None = None,
    image: Path | None = None,
    vmlinux: Path | None = None,
) -> Recipe:
    """Return the recipe of a kernel as the user's options make it.

    Args:
        name: a known name, "patch" for base and `patches`, "image" for `image` and `vmlinux`, or one in `sources`,
            which is as base if it is not known.
        sources: NAME to DIR[@REV], for one kernel.
        tree: DIR[@REV], for all others.
        patches: what the kernel "patch" adds to base.
        config, fragments, cc: for all kernels that are built here; `config` is that of `image` too.
        image, vmlinux: a kernel that is built.

    Raises:
        UsageError: a name that is not known, a file or a folder that cannot be read, a revision that is not there.
    """
    sources = sources or {}
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UsageError(f"{name!r} is no name for a kernel: use letters, digits, '.', '_' and '-'")
    if name == IMAGE:
        return _built(image, vmlinux, config)
    if name == PATCH:
        if not patches and name not in sources:
            raise UsageError(f"the kernel {PATCH!r} is base with the files of --patch, and there are none")
        recipe = replace(load("base"), name=name, patches=tuple(map(Patch.read, patches)))
    else:
        recipe = replace(load("base"), name=name) if name in sources and name not in known() else load(name)
    if recipe.source == STOCK:
        if name in sources:
            raise UsageError(f"--kernel {name}={sources[name]}: {name} is Debian's own build, which no tree goes into")
        return recipe
    source = sources.get(name, tree)
    if source is not None:
        check(source)
        folder, revision = split(source)
        recipe = replace(recipe, source=f"{folder}@{revision}" if revision else str(folder))
    return replace(
        recipe,
        config=_readable(config) if config is not None else None,
        extra_fragments=tuple(map(_readable, fragments)),
        cc=cc or recipe.cc,
    )


def _built(image: Path | None, vmlinux: Path | None, config: Path | None) -> Recipe:
    """Return the recipe of a kernel that the user has built."""
    if image is None or vmlinux is None:
        raise UsageError(
            f"the kernel {IMAGE!r} is one that you have built: give its bzImage by --kernel-image FILE and the vmlinux "
            "of the same build by --vmlinux FILE"
        )
    return replace(
        load("base"),
        name=IMAGE,
        config=_readable(config) if config is not None else None,
        files=(_readable(image, "kernel image"), _readable(vmlinux, "vmlinux")),
    )


def _readable(path: Path, what: str = "config") -> Path:
    try:
        with path.open("rb"):
            return path.resolve()
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror}") from None


def _read(name: str, above: tuple[str, ...]) -> dict[str, Any]:
    """Return what the recipe and those that it inherits from say."""
    path = data.folder("kernels") / f"{name}.toml"
    if name in above:
        raise HostFailure(f"{path}: the recipe inherits from itself, {' -> '.join((*above, name))}")
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostFailure(f"{path}: the recipe cannot be read: {error}") from None
    for key, value in said.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise HostFailure(f"{path}: no recipe has {key!r}: use {', '.join(_KEYS)}")
        if not isinstance(value, kind):
            raise HostFailure(f"{path}: {key} must be a {kind.__name__}, and is {value!r}")
    parent = said.pop("inherits", None)
    return {**(_read(parent, (*above, name)) if parent else {}), **said}


def _recipe(name: str, said: Mapping[str, Any]) -> Recipe:
    kernels = data.folder("kernels")
    path = kernels / f"{name}.toml"
    missing = {"series", "fragments"} - said.keys()
    if missing:
        raise HostFailure(f"{path}: the recipe lacks {', '.join(sorted(missing))}")
    patches: tuple[Patch, ...] = ()
    if "patches" in said:
        patches = tuple(map(Patch.read, sorted((kernels / "patches" / said["patches"]).glob("*.patch"))))
        if not patches:
            raise HostFailure(f"{path}: there is no patch in {kernels / 'patches' / said['patches']}")
    if "upto" in said:
        if not 1 <= said["upto"] <= len(patches):
            raise HostFailure(f"{path}: upto is {said['upto']}, and there are {len(patches)} patches: 1 is the first")
        patches = patches[: said["upto"]]
    return Recipe(
        name=name,
        series=said["series"],
        source=said.get("source", DEBIAN),
        fragments=tuple(_readable(kernels / "fragments" / file) for file in said["fragments"]),
        patches=patches,
        cc=said.get("cc", "gcc"),
        absent=tuple(sorted(said.get("absent", {}).items())),
    )
