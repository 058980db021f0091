"""`vmtests image build` and `vmtests image show`."""

from __future__ import annotations

import argparse
import json
import stat
import sys
from typing import TYPE_CHECKING

from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode

if TYPE_CHECKING:
    from vmtests.cpio import Member
    from vmtests.image import Image

_BUILD = """\
  vmtests image build                  made from Debian packages at its first use, then found in the cache
"""
_SHOW = """\
  vmtests image show                   its key and size, of which packages it is, which programs it has
  vmtests image show --files           all that is in it, as ls has it
  vmtests image show --json            for a program
"""
_MORE = """
Another image is another recipe: images/guest.toml, with images/init and images/overlay/ beside it.
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    image = verbs.add_parser("image", help="build the guest's image, show what is in it", **examples(_BUILD + _SHOW))
    whats = image.add_subparsers(metavar="WHAT", required=True)
    build = whats.add_parser("build", help="build it, or find it in the cache", **examples(_BUILD + _MORE))
    build.set_defaults(act=_build)
    show = whats.add_parser("show", help="what is in it; built first if need be", **examples(_SHOW))
    show.add_argument("--files", action="store_true", help="list every file")
    show.set_defaults(act=_show)
    for parser in (build, show):
        parser.add_argument("--json", action="store_true", help="for a program")


def _image() -> Image:
    from vmtests import image
    from vmtests.report.progress import Progress

    with Progress(sys.stderr).task("the guest's image"):
        return image.build()


def _about(image: Image) -> dict[str, object]:
    size = image.path.stat().st_size
    return {"key": image.key, "path": str(image.path), "sha256": image.sha256, "size_bytes": size}


def _line(image: Image) -> str:
    from vmtests.report import words

    return f"image {image.key}: {words.size_about(image.path.stat().st_size)}\n  {image.path}"


def _build(arguments: argparse.Namespace) -> int:
    image = _image()
    print(json.dumps(_about(image), indent=1) if arguments.json else _line(image))
    return ExitCode.PASSED


def _show(arguments: argparse.Namespace) -> int:
    from vmtests import cpio
    from vmtests.image import recipe

    image = _image()
    found = list(cpio.members(image.path.read_bytes()))
    programs = recipe.load().programs
    if arguments.json:
        listed = [{"path": one.path, "mode": f"{one.mode:o}", "size_bytes": one.size_bytes} for one in found]
        about = {**_about(image), "packages": dict(image.packages), "programs": programs}
        print(json.dumps({**about, "files": listed} if arguments.files else about, indent=1))
        return ExitCode.PASSED
    print(_line(image))
    width = max(map(len, image.packages))
    print("packages:", *(f"  {name:{width}}  {version}" for name, version in image.packages.items()), sep="\n")
    applets = sum(one.target == "busybox" for one in found)
    print(f"programs: {', '.join(programs)}, and {applets} applets of busybox")
    if arguments.files:
        print("files:", *map(_listed, found), sep="\n")
    return ExitCode.PASSED


def _listed(one: Member) -> str:
    arrow = f" -> {one.target}" if one.target else ""
    return f"  {stat.filemode(one.mode)} {one.size_bytes:>9}  /{one.path}{arrow}"
