"""One commit: build it, boot it, and read the metric, as the tests do."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vmtests.bisect.plan import KERNEL, MISMATCHES, Measured, Plan
from vmtests.errors import ExitCode, KernelFailure
from vmtests.kernel import BuildFailure
from vmtests.pmem import NamespaceSpec
from vmtests.record import BindEntry, MemmapEntry
from vmtests.report.progress import Progress
from vmtests.run.bench import Bench
from vmtests.run.run import Run
from vmtests.timing import samples


def measure(plan: Plan, commit: str, folder: Path, progress: Progress) -> Measured:
    """Measure one commit, and keep the run's record in the folder.

    A kernel that does not build, does not boot or dies has no value: nothing can be said of what is looked for.

    Raises:
        HostFailure: this host cannot tell.
    """
    begun = time.monotonic()
    run = Run(plan.options(commit, folder), sys.argv, progress)
    spec = NamespaceSpec(plan.mode, plan.map, plan.align, None)
    code, reason = ExitCode.PASSED, ""
    try:
        for boot in range(plan.boots):
            with run.bench(KERNEL, spec, boot, timed=plan.metric != "memmap", cold=True) as bench:
                _procedure(bench, look=plan.metric == "memmap")
    except (BuildFailure, KernelFailure) as error:
        code, reason = error.exit_code, error.message.splitlines()[0]
        run.evidence.failed(f"commit {commit}", str(error))
    except BaseException as error:
        run.save(getattr(error, "exit_code", ExitCode.NO_VERDICT))
        raise
    binds = run.record.entries(BindEntry)
    if plan.metric == "memmap":
        value, unit = _wrong(run.record.entries(MemmapEntry), whole=not reason), MISMATCHES
    else:
        value, unit = (None, "") if reason else _middle(binds, plan.clock)
    run.save(code)
    return Measured(value, unit, "" if value is not None else reason, binds, round(time.monotonic() - begun, 1))


def _procedure(bench: Bench, *, look: bool) -> None:
    """Do the published procedure; without a look at the memmap, a wrong page does not stop it."""
    first = bench.create_namespace()
    if look:
        bench.check_memmap(first)
    rebinds = bench.rebind(bench.rebinds)
    if look:
        bench.check_memmap(rebinds[-1])
        bench.check_memmap(bench.rebind_over_poison(bench.rebinds + 1))


def _wrong(checks: Sequence[MemmapEntry], *, whole: bool) -> float | None:
    """Return what is wrong or could not be seen; None if the kernel died before it was clear."""
    wrong = sum(max(one.mismatches, one.pages_expected - one.pages_checked) for one in checks)
    return float(wrong) if whole or wrong else None


def _middle(binds: Sequence[BindEntry], clock: str) -> tuple[float | None, str]:
    namespace = binds[0].namespace
    found = samples.per_boot(binds, KERNEL, namespace, clock, "rebind")
    return (None, "") if found is None else (found.middle, found.unit)
