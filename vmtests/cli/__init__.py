"""The `vmtests` command, a module for each verb. No logic of its own; what a verb needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from vmtests import errors
from vmtests.cli import bisect, boot, clean, compare, crash, drgn, history, host, image, kernel, memmap, report, vmcore
from vmtests.errors import ExitCode, VmtestsError
from vmtests.run.interrupts import unwind_on_sigterm

_EXAMPLES = """\
examples:
  vmtests setup                                      install what is missing on this host
  vmtests doctor                                     what can this host run, and why
  vmtests kernel list                                the kernels that there are recipes for
  vmtests kernel build patched                       build one, or find it in the cache
  vmtests kernel build patch --kernel-tree ~/linux --patch 0001-mine.patch
  vmtests boot patched                               a shell in a guest where /dev/pmem0 is bound
  vmtests boot patched --exec "ndctl list"           one command there, whose exit code is ours
  vmtests boot patched --keep                        a guest that runs on, for ssh, drgn and gdb
  vmtests image show                                 what the guests find in their image
  vmtests report runs/monday -o page.html            one page about a run, that opens from disk
  vmtests report runs/monday --format changelog      the text for a patch's changelog
  vmtests compare runs/monday runs/tuesday           two run records, offline
  vmtests history add ~/history runs/monday          keep a run's samples; `show`, `check`, `accept`
  vmtests drgn GUEST                                 drgn on a guest, with its range, its pgmap, page(pfn) and check()
  vmtests drgn runs/monday                           the same on the dump of a run that failed
  vmtests bisect --kernel-tree ~/linux --good v7.3 --bad HEAD   the commit that made a struct page wrong
  vmtests memmap check GUEST                         every struct page of a guest that `pytest --keep` has left
  vmtests vmcore --guest GUEST -o FILE               the dump of such a guest, without its holes
  vmtests crash FILE                                 crash(8), new enough for the kernel, on a dump
  vmtests clean                                      which guests were left, how to get in, and what the caches take

The tests themselves are run by pytest: pytest vmtests/ -k rebind
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmtests",
        description="Is the memmap of a ZONE_DEVICE range still right, and what did a patch do to the time it takes?",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in (host, kernel, image, boot, drgn, memmap, report, compare, history, bisect, vmcore, crash, clean):
        verb.add(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    unwind_on_sigterm()
    try:
        code = int(arguments.act(arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # whoever read our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (VmtestsError, OSError) as error:
        failure = errors.known(error)
        if not isinstance(failure, VmtestsError):
            raise
        print(f"vmtests: {failure}", file=sys.stderr)
        return failure.exit_code
