"""`vmtests bisect`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vmtests.cli.verbs import Verbs, examples
from vmtests.errors import ExitCode

_EXAMPLES = """\
  vmtests bisect --kernel-tree ~/linux --good v7.3 --bad my-branch
  vmtests bisect --kernel-tree ~/linux --good v7.2 --bad v7.3 --metric instructions
  vmtests bisect --kernel-tree ~/linux --good HEAD~20 --bad HEAD --mode devdax --align 1G --pmem-size 8G
  git bisect replay runs/TIME/bisect.log       in a clone of yours, to look around there

Your repository is only read. Exit code 5: the ends do not differ, or only commits are left that cannot be tested.
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    bisect = verbs.add_parser("bisect", help="find the commit that changed it", **examples(_EXAMPLES))
    bisect.add_argument("--kernel-tree", required=True, metavar="DIR", help="the repository; it is never written to")
    bisect.add_argument("--good", required=True, metavar="REV", help="a revision where all is well")
    bisect.add_argument("--bad", required=True, metavar="REV", help="a later one where it is not")
    bisect.add_argument(
        "--metric",
        default="memmap",
        choices=("memmap", "instructions", "time"),
        help="memmap: is every struct page right (default); or what a rebind takes, half-way between the ends",
    )
    bisect.add_argument("--pmem-size", default="4G", metavar="SIZE", help="size of the NVDIMM (4G)")
    bisect.add_argument("--mode", default="fsdax", metavar="MODE", help="fsdax or devdax")
    bisect.add_argument("--map", default="dev", metavar="MAP", help="where its memmap lies: dev or mem")
    bisect.add_argument("--align", default="2M", metavar="SIZE", help="its alignment: 4K, 2M or 1G")
    bisect.add_argument("--rebinds", default="3", metavar="N", help="rebinds of a boot (3)")
    bisect.add_argument("--boots", metavar="N", help="boots of each commit (1; by time 6)")
    bisect.add_argument("--accel", default="auto", metavar="ACCEL", help="kvm, tcg; auto: KVM if it is proven")
    bisect.add_argument("--config", type=Path, metavar="FILE", help="build with this .config")
    bisect.add_argument("--config-fragment", action="append", default=[], type=Path, metavar="FILE", help="and these")
    bisect.add_argument("--cc", default="gcc", choices=("gcc", "clang"), help="the compiler (gcc)")
    bisect.add_argument("--record", type=Path, metavar="DIR", help="where the search's record goes (runs/TIME)")
    bisect.add_argument("--json", action="store_true", help="for a program: all that was seen")
    bisect.set_defaults(act=_bisect)


def _bisect(arguments: argparse.Namespace) -> int:
    from vmtests.bisect.measure import measure
    from vmtests.bisect.plan import Plan, State
    from vmtests.bisect.search import ends, search
    from vmtests.pmem import NamespaceSpec
    from vmtests.report.progress import Progress
    from vmtests.run.options import Options, parse_size, whole_number
    from vmtests.run.run import folder_of

    folder, good, bad = ends(arguments.kernel_tree, arguments.good, arguments.bad)
    boots = arguments.boots or ("6" if arguments.metric == "time" else "1")
    plan = Plan(
        tree=str(folder),
        good=good,
        bad=bad,
        metric=arguments.metric,
        pmem_size=parse_size(arguments.pmem_size),
        mode=arguments.mode,
        map=arguments.map,
        align=parse_size(arguments.align),
        rebinds=whole_number("--rebinds", arguments.rebinds),
        boots=whole_number("--boots", boots),
        accel=arguments.accel,
        config=None if arguments.config is None else str(arguments.config.absolute()),
        fragments=tuple(str(path.absolute()) for path in arguments.config_fragment),
        cc=arguments.cc,
    )
    NamespaceSpec(plan.mode, plan.map, plan.align, None)  # its rules, before anything is built
    record = folder_of(Options(record=arguments.record))
    found = search(plan, record, Progress(sys.stderr), measure=measure)
    if arguments.json:
        print(json.dumps(State.load(record).to_json(), indent=1))
    else:
        print(f"the first bad commit: {found.step.commit} {found.step.subject}")
        for what, made in (("it", found.step), *(("its parent", parent) for parent in found.parents)):
            print(f"  measured again, {what}: {made}")
        print(f"log: {State.load(record).log}")
    return ExitCode.PASSED
