"""`vmtests boot`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vmtests.cli.verbs import Verbs
from vmtests.errors import ExitCode, HostFailure

_EXAMPLES = """\
examples:
  vmtests boot                            a guest of the kernel base; prints how to get in, and how to end it
  vmtests boot patched
  vmtests boot patch --patch 0001-mine.patch
  vmtests boot base --append initcall_debug --evidence /tmp/boot

The guest runs on until `vmtests clean` ends it.
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    boot = verbs.add_parser(
        "boot",
        help="start a guest, to be looked into",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    boot.add_argument("kernel", nargs="?", default="base", metavar="KERNEL", help="its recipe's name, or `patch`")
    boot.add_argument("--kernel-tree", metavar="DIR[@REV]", help="a tree of yours; it is never written to")
    boot.add_argument("--patch", action="append", default=[], type=Path, metavar="FILE")
    boot.add_argument("--append", action="append", default=[], metavar="WORD", help="more for its command line")
    boot.add_argument("--accel", default="auto", metavar="ACCEL", help="kvm, tcg; auto: KVM if it is proven")
    boot.add_argument("--cold", action="store_true", help="boot it, even if there is a snapshot")
    boot.add_argument("--evidence", type=Path, metavar="DIR", help="where its console's log goes (its own folder)")
    boot.set_defaults(act=_boot)


def _boot(arguments: argparse.Namespace) -> int:
    from vmtests import host, image, kernel
    from vmtests.guest import Keeper, Kept, Machine, boot, workspace
    from vmtests.report import summary
    from vmtests.report.progress import Progress

    progress = Progress(sys.stderr)
    recipe = kernel.resolve(arguments.kernel, tree=arguments.kernel_tree, patches=arguments.patch)
    with progress.task(f"kernel {recipe.name}") as update:
        built = kernel.build(recipe, progress=update)
    initramfs = image.build()
    accelerator = host.accelerator(built.image, initramfs.path, arguments.accel).name
    machine = Machine(accelerator, cpus=1 if accelerator == "tcg" else 2)
    evidence = arguments.evidence or workspace.guests().parent / "logs" / f"boot-{os.getpid()}"
    left: list[Kept] = []
    keeper = Keeper(lambda _: "vmtests boot", left.append)
    try:
        with (
            progress.task(f"{recipe.name}: boot"),
            boot(
                built,
                initramfs,
                machine,
                evidence=evidence,
                append=arguments.append,
                keeper=keeper,
                restore=not arguments.cold,
                tell=progress.say,
            ),
        ):
            pass
    finally:
        # One whose kernel has died is left as well.
        for guest in left:
            print(summary.kept(guest.name, recipe.name, guest.why, guest.ways_in()))
    if not left:
        raise HostFailure("the guest ended as soon as it was there", evidence=[evidence])
    return ExitCode.PASSED
