"""`vmtests vmcore`."""

from __future__ import annotations

import argparse
from pathlib import Path

from vmtests.cli.verbs import Verbs, doing, examples
from vmtests.errors import ExitCode

_EXAMPLES = """\
  vmtests vmcore --guest guest-7e26f555 -o /tmp/vmcore    a guest that --keep has left; it runs on afterwards
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    help_ = "write the dump of a guest that was left, without its holes"
    vmcore = verbs.add_parser("vmcore", help=help_, **examples(_EXAMPLES))
    vmcore.add_argument("--guest", required=True, metavar="GUEST", help="its name, as `vmtests clean` shows it")
    vmcore.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the dump; replaced if there")
    vmcore.set_defaults(act=_write)


def _write(arguments: argparse.Namespace) -> int:
    from vmtests.guest import kept
    from vmtests.memmap.known import Known
    from vmtests.report import words
    from vmtests.vmcore import About, how_to_open, write

    guest = kept.find(arguments.guest)
    memmaps = [Known.from_json(value) for value in guest.memmaps()]
    with guest.monitor() as monitor, doing(f"{guest.name} stands still for its dump"):
        done = write(arguments.output, monitor, About.of(guest.kernel, memmaps, f"{guest.name}: {guest.why}"))
    print(
        f"{done.path}: {words.size_about(done.data_bytes)}; {guest.name} stood still for {done.stopped_seconds:.1f} s"
    )
    print("\n".join(how_to_open(done.path, guest.kernel.vmlinux)))
    return ExitCode.PASSED
