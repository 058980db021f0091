"""`vmtests boot`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vmtests.cli.verbs import Verbs, add_recipe, examples, recipe
from vmtests.errors import ExitCode, HostFailure

if TYPE_CHECKING:
    from vmtests.guest import Guest, Kept
    from vmtests.pmem import Namespace, NamespaceSpec
    from vmtests.report.progress import Progress

_EXAMPLES = """\
  vmtests boot                                 a shell in a guest of the kernel base, where /dev/pmem0 is bound
  vmtests boot patched --exec "ndctl list"     one command instead, whose exit code is ours
  vmtests boot patched --mode devdax --align 2M --pmem-size 100G
  vmtests boot patch --patch 0001-mine.patch --exec "dmesg | tail"
  vmtests boot --no-namespace                  the NVDIMM is there, and `ndctl create-namespace` is yours to type
  vmtests boot --keep                          leave it running, for drgn, gdb and ssh; `vmtests clean` ends it
  vmtests boot --append initcall_debug --exec dmesg

While the shell is open, `vmtests clean` in another window says how else to get in: drgn, gdb, ssh.
Enter ~ . leaves a guest that does not answer.
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    boot = verbs.add_parser("boot", help="a shell in a guest that has an NVDIMM", **examples(_EXAMPLES))
    boot.add_argument("name", nargs="?", default="base", metavar="KERNEL", help="a recipe's name, or `patch` (base)")
    what = boot.add_argument_group("what to do there")
    what.add_argument("--exec", metavar="CMD", help="run this in the guest's sh, end the guest, exit as it did")
    what.add_argument("--timeout", default="1h", metavar="TIME", help="how long CMD may take: 90s, 30m (1h)")
    what.add_argument("--keep", action="store_true", help="leave it running instead, and print how to get in")
    nvdimm = boot.add_argument_group("the NVDIMM")
    nvdimm.add_argument("--pmem-size", default="4G", metavar="SIZE", help="its size (4G)")
    nvdimm.add_argument("--mode", default="fsdax", metavar="MODE", help="fsdax, devdax (fsdax)")
    nvdimm.add_argument("--map", default="dev", metavar="MAP", help="where the memmap lies: dev, mem (dev)")
    nvdimm.add_argument("--align", default="2M", metavar="SIZE", help="4K, 2M, 1G (2M)")
    nvdimm.add_argument("--no-namespace", action="store_true", help="make no namespace in it")
    add_recipe(boot.add_argument_group("the kernel"))
    guest = boot.add_argument_group("the guest")
    guest.add_argument("--memory", default="2G", metavar="SIZE", help="its RAM (2G)")
    guest.add_argument(
        "--append", action="append", default=[], metavar="WORD", help="more for the kernel's command line"
    )
    guest.add_argument("--accel", default="auto", metavar="ACCEL", help="kvm, tcg; auto: KVM if it is proven")
    guest.add_argument("--cold", action="store_true", help="boot it, even if there is a snapshot")
    guest.add_argument("--evidence", type=Path, metavar="DIR", help="keep its console's log and more there")
    boot.set_defaults(act=_boot)


def _boot(arguments: argparse.Namespace) -> int:
    from vmtests.guest import Terminal
    from vmtests.pmem import NamespaceSpec, Nvdimm
    from vmtests.report import summary
    from vmtests.report.progress import Progress
    from vmtests.run.options import parse_duration, parse_size

    # All that can be wrong with what was typed, before minutes are spent on a kernel.
    Nvdimm.check(parse_size(arguments.pmem_size))
    terminal = None if arguments.exec is not None or arguments.keep else Terminal.ours()
    seconds = parse_duration("--timeout", arguments.timeout)
    spec = None
    if not arguments.no_namespace:
        spec = NamespaceSpec(arguments.mode, arguments.map, parse_size(arguments.align))
    progress = Progress(sys.stderr)
    left: list[Kept] = []
    status: int = ExitCode.PASSED
    try:
        with _guest(arguments, spec, progress, left) as (guest, namespace):
            if terminal is not None:
                progress.say(_welcome(guest, namespace))
                guest.interact(terminal)
            elif arguments.exec is not None:
                status = _status(guest.stream(arguments.exec, _pass_on, seconds=seconds))
    finally:
        # One whose kernel has died is left as well.
        for one in left:
            print(summary.kept(one.name, one.kernel.name, one.why, one.ways_in()), file=sys.stderr)
    if arguments.keep and not left:
        raise HostFailure("the guest ended as soon as it was there")
    return status


@contextmanager
def _guest(
    arguments: argparse.Namespace, spec: NamespaceSpec | None, progress: Progress, left: list[Kept]
) -> Iterator[tuple[Guest, Namespace | None]]:
    """Yield the guest, and its namespace if it has one; `left` gets the guest if it is to run on."""
    from vmtests import cache, host, image, kernel
    from vmtests.guest import Keeper, Machine, boot
    from vmtests.run.furnish import furnish
    from vmtests.run.options import parse_size

    memory, pmem = parse_size(arguments.memory), parse_size(arguments.pmem_size)
    wanted = recipe(arguments)
    with progress.task(f"kernel {wanted.name}") as update:
        built = kernel.build(wanted, progress=update)
    with progress.task("the guest's image"):
        initramfs = image.build(built.modules)
    with progress.task("proving the accelerator"):
        accelerator = host.accelerator(built.image, initramfs.path, arguments.accel).name
    machine = Machine(accelerator, cpus=1 if accelerator == "tcg" else 2, memory_bytes=memory)
    # An entry of the cache: `vmtests clean` shows and frees those that stay.
    name = f"boot-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    logs = arguments.evidence or cache.entry("logs", name, lambda _: None)
    keeper = Keeper(lambda _: "vmtests boot" if arguments.keep else "", left.append, outlives=arguments.keep)
    with ExitStack() as stack:
        with progress.task(f"{wanted.name}: boot"):
            guest = stack.enter_context(
                boot(
                    built,
                    initramfs,
                    machine,
                    evidence=logs,
                    append=arguments.append,
                    keeper=keeper,
                    restore=not arguments.cold,
                    tell=progress.say,
                )
            )
        with progress.task(f"{wanted.name}: NVDIMM") as update:
            namespace = furnish(guest, pmem, spec, update)
        yield guest, namespace
    if not (left or arguments.evidence):  # the console of a guest that did its work tells nothing
        cache.remove(logs)


def _welcome(guest: Guest, namespace: Namespace | None) -> str:
    device = "no namespace yet" if namespace is None else f"/dev/{namespace.node} ({namespace.id}, {namespace.name})"
    return (
        f"{guest.workspace.id}: kernel {guest.kernel.name} {guest.kernel.release}, {device}\n"
        f"`exit` ends it, and so does Enter ~ . where it does not answer; `vmtests drgn {guest.workspace.id}` looks in"
    )


def _pass_on(error: bool, data: bytes) -> None:
    stream = sys.stderr if error else sys.stdout
    stream.buffer.write(data)
    stream.flush()


def _status(status: int) -> int:
    """Return a command's status as ours; ssh says 255, too, where a signal ended it."""
    return 255 if status < 0 else status
