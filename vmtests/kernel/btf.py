"""A kernel's BTF (Documentation/bpf/btf.rst): its types as a distribution ships them, without any other debug info."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vmtests import cache
from vmtests.borrowed import Borrowed
from vmtests.command import run
from vmtests.elf import build_id
from vmtests.errors import HostFailure

# Most of it, and of no use here.
_LEFT_OUT = frozenset({"FUNC", "DATASEC", "DECL_TAG", "VAR"})


def records(vmlinux: Path) -> Sequence[Mapping[str, Any]]:
    """Return the types as bpftool's JSON has them, which is fetched; what is not about data types is left out.

    Raises:
        HostFailure: there are none, or they cannot be read.
    """
    name = build_id(vmlinux)
    if name is None:
        raise HostFailure(f"{vmlinux} has no build id: it cannot be told from other kernels")
    return _read(cache.entry("btf", name, lambda to: _dump(vmlinux, to)) / "types.json")


@functools.lru_cache(maxsize=4)
def _read(file: Path) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = json.loads(file.read_text())
    return found


def _dump(vmlinux: Path, to: Path) -> None:
    argv = Borrowed.fetch("bpftool").argv("-j", "btf", "dump", "file", str(vmlinux.absolute()))
    said = run(argv, seconds=60, what=f"the BTF of {vmlinux} cannot be read").stdout
    try:
        types = json.loads(said)["types"]
    except (ValueError, KeyError, TypeError) as error:
        raise HostFailure(
            f"bpftool's words about {vmlinux} are not its types: {error!r}", output=said[:2000]
        ) from error
    (to / "types.json").write_text(json.dumps([one for one in types if one["kind"] not in _LEFT_OUT]))
