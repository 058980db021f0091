"""Kernels that are wrong on purpose: the table `kernels/mutants/mutants.toml`, and the kernels to build for it.

One kernel carries most of them, all.patch over the series, and a boot parameter picks one: a boot each and not a build.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vmtests import data
from vmtests.errors import HostFailure
from vmtests.kernel.patches import Patch
from vmtests.kernel.recipe import Recipe, load

#: The boot parameter, and what the kernel says to it (kernels/mutants/all.patch).
PARAMETER = "vmtests.mutant"
SAID = "vmtests: this kernel is mutant {name}"
UNKNOWN = "vmtests: there is no mutant {name}"

#: What a check is called in the table.
CHECKS = "FPTUDLVSX"

PLACES = ("alone", "in-turn", "before-another", "at-once", "node-1", "beside-boot")

#: The series that the fast path is in.
SERIES = "patched"

_KEYS = {"name", "wrong", "check", "kind", "says", "place", "kernel", "quick", "alone", "reason"}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One row of the table.

    Attributes:
        id: the row's name.
        name: the value of the boot parameter.
        wrong: what the kernel does wrong.
        checks: letters of CHECKS, to what each one's failure says, a regular expression; none if `reason` is set.
        kind: of the namespace that shows it.
        place: where that lies, one of PLACES.
        kernel: the recipe whose source and config it is built with, beneath the series.
        quick: whether it belongs to the quick tier.
        alone: the patch that is this mutant and no other, without ".patch".
        reason: why no kernel here can show it.
    """

    id: str
    name: str
    wrong: str
    checks: Mapping[str, str]
    kind: str = "fsdax-dev"
    place: str = PLACES[0]
    kernel: str = SERIES
    quick: bool = False
    alone: str | None = None
    reason: str | None = None


def folder() -> Path:
    """Return where the table and the patches are."""
    return data.folder("kernels") / "mutants"


def table() -> tuple[Mutant, ...]:
    """Return the rows of the table in its order; HostFailure for a row that cannot be meant."""
    path = folder() / "mutants.toml"
    try:
        rows = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostFailure(f"{path}: the table cannot be read: {error}") from None
    return tuple(_row(path, id, said) for id, said in rows.items())


def _row(path: Path, id: str, said: Mapping[str, Any]) -> Mutant:
    where = f"{path}: {id}"
    if unknown := said.keys() - _KEYS:
        raise HostFailure(f"{where}: no row has {', '.join(sorted(unknown))}: use {', '.join(sorted(_KEYS))}")
    checks = said.get("check", [])
    says = said.get("says", {})
    if isinstance(says, str):
        says = dict.fromkeys(checks, says)
    if "wrong" not in said or bool(checks) == ("reason" in said) or set(says) != set(checks):
        raise HostFailure(f"{where}: a row has `wrong`, and either `reason` or `check` and for each what it `says`")
    place = said.get("place", PLACES[0])
    if set(checks) - set(CHECKS) or place not in PLACES:
        raise HostFailure(f"{where}: a check is one letter of {CHECKS}, a place one of {', '.join(PLACES)}")
    rest = {key: said[key] for key in ("kind", "kernel", "quick", "alone", "reason") if key in said}
    return Mutant(id=id, name=said.get("name", id), wrong=said["wrong"], checks=says, place=place, **rest)


def recipe(patch: str | None = "all", *, over: str = SERIES) -> Recipe:
    """Return the series with a patch of kernels/mutants on top, a kernel called as both.

    Args:
        patch: its name without ".patch"; None is the series alone.
        over: the recipe that brings another config to it.
    """
    series = load(SERIES)
    below = series if over == SERIES else replace(load(over), patches=series.patches)
    more = () if patch is None else (Patch.read(folder() / f"{patch}.patch"),)
    words = (SERIES if patch is None else f"mutants-{patch}", *([] if over == SERIES else [over]))
    return replace(below, name="-".join(words), patches=(*below.patches, *more))
