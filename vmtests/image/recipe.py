"""The recipe of the guest's image: `images/guest.toml`, with `images/init` and `images/overlay/` beside it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from vmtests import data
from vmtests.errors import HostFailure


@dataclass(frozen=True)
class Recipe:
    """What goes into the image."""

    # Debian packages, whose dependencies are downloaded with them.
    packages: tuple[str, ...]
    # Programs of these packages, by name.
    programs: tuple[str, ...]
    # Data files of these packages, by path from the root.
    files: tuple[str, ...]
    # PID 1.
    init: bytes
    # Our own files: path from the image's root to content.
    overlay: tuple[tuple[str, bytes], ...]


def load(folder: Path | None = None) -> Recipe:
    """Read the recipe in `folder`; None is the project's own.

    Raises:
        HostFailure: the recipe cannot be read, or has other keys than it may.
    """
    folder = folder or data.folder("images")
    path = folder / "guest.toml"
    try:
        table = tomllib.loads(path.read_text())
        init = (folder / "init").read_bytes()
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise HostFailure(f"the image's recipe {path} cannot be read: {error}") from error
    lists = {key: tuple(table.pop(key, ())) for key in ("packages", "programs", "files")}
    if table:
        raise HostFailure(f"{path}: unknown key {next(iter(table))}; a recipe has {', '.join(lists)}")
    overlay = sorted(each for each in (folder / "overlay").rglob("*") if each.is_file())
    return Recipe(
        **lists,
        init=init,
        overlay=tuple((str(each.relative_to(folder / "overlay")), each.read_bytes()) for each in overlay),
    )
