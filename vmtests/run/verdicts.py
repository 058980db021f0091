"""What a run says of its timing: the comparisons that go into its record, and what they add to its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vmtests.errors import ExitCode, HostFailure, UsageError
from vmtests.record import BindEntry, ComparisonEntry, RecordWriter
from vmtests.report import words
from vmtests.run.options import Options
from vmtests.timing import rig, verdict


def compare(record: RecordWriter, options: Options, clock: str, *, emulated: bool, pairs: int | None) -> None:
    """Hold every kernel against the first, for each namespace and metric; a gate's limit is then the band.

    Args:
        record: of the run; it gets the comparisons.
        options: of the run.
        clock: the run's.
        emulated: whether the processor is QEMU's translator.
        pairs: how many pairs of boots were begun; None where workers began them.

    Raises:
        UsageError: the binds cannot be compared.
    """
    limit = options.max_regression
    found = verdict.compare_all(
        record.entries(BindEntry),
        options.kernel_names(),
        clock,
        band=verdict.BAND if limit is None else limit,
        planned=pairs,
    )
    record.add(*(replace(one, emulated=emulated and clock == "wall") for one in found))


def trouble(record: RecordWriter) -> list[HostFailure]:
    """Return a failure for each kernel whose boots do not count alike: the rig's, never the kernel's."""
    try:
        return [HostFailure(str(one)) for one in rig.check(record.entries(BindEntry))]
    except UsageError:  # they cannot be compared, as `compare` says too
        return []


@dataclass(frozen=True)
class Gated:
    """What the gate makes of one comparison, and why in a line."""

    code: ExitCode
    text: str


_GATED = {
    ExitCode.PASSED: "passed",
    ExitCode.KERNEL_FAILED: "failed",
    ExitCode.NO_VERDICT: "no verdict",
}


def gate(record: RecordWriter, options: Options) -> list[Gated]:
    """Return what a gate makes of the comparisons of the rebinds; one that is missing is no verdict."""
    limit = options.max_regression
    if limit is None:
        return []
    name = f"--max-regression {limit:.4%}".rstrip("%").rstrip("0").rstrip(".") + "%"
    judged = [one for one in record.entries(ComparisonEntry) if one.metric == "rebind"]
    found = []
    for one in judged:
        code = verdict.gate(one, limit)
        what = f"{one.namespace}, {one.patched} against {one.base}: {words.change(one.ratio)} {words.interval(one)}"
        found.append(Gated(code, f"{name} {_GATED[code]}: {what.rstrip()}"))
    wanted = len(_namespaces(record.entries(BindEntry))) * (len(options.kernel_names()) - 1)
    if (missing := max(wanted, 1) - len(judged)) > 0:
        found.append(Gated(ExitCode.NO_VERDICT, f"{name} no verdict: {missing} comparisons lack a whole pair of boots"))
    return found


def _namespaces(binds: Sequence[BindEntry]) -> set[str]:
    return {bind.namespace for bind in binds}
