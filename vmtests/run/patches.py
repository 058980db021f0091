"""The patches of a series in the run record: each builds, or there is a verdict on it that says why not."""

from __future__ import annotations

from vmtests.errors import HostFailure, KernelFailure, VmtestsError
from vmtests.kernel import ApplyFailure, BuildFailure, Series
from vmtests.record import PatchEntry, RecordWriter


def builds(record: RecordWriter, series: Series | None, kernel: str) -> None:
    """Note that a kernel is there, if it is one of the series."""
    if series is not None and kernel in series.kernels():
        record.add(_entry(series, kernel, "builds"))


def fails(record: RecordWriter, series: Series | None, kernel: str, error: VmtestsError) -> VmtestsError:
    """Note why a kernel is not there, and return the failure that its tests end with.

    A patch that does not build is wrong, a KernelFailure; one that does not apply may be right for another base.
    """
    if series is None or kernel not in series.kernels():
        return error
    number = series.kernels().index(kernel) + 1
    reason = error.message.splitlines()[0]
    kind: type[VmtestsError]
    if isinstance(error, BuildFailure):
        wrong, outcome, kind = number, "does-not-build", KernelFailure
    elif isinstance(error, ApplyFailure):
        wrong = series.patches.index(error.patch) + 1 if error.patch in series.patches else number
        outcome, kind = "does-not-apply", HostFailure
    else:
        return error
    if wrong != number:
        reason = f"{_name(series, wrong)}, before it, does not apply"
    record.add(_entry(series, kernel, outcome, reason))
    return kind(
        f"{_name(series, wrong)} {outcome.replace('-', ' ')}: {error.message}",
        command=error.command,
        status=error.status,
        output=error.output,
        evidence=error.evidence,
    )


def _name(series: Series, number: int) -> str:
    return f"patch {number}/{len(series.patches)} ({series.subjects[number - 1]})"


def _entry(series: Series, kernel: str, outcome: str, reason: str = "") -> PatchEntry:
    number = series.kernels().index(kernel) + 1
    return PatchEntry(
        kernel=kernel,
        number=number,
        total=len(series.patches),
        subject=series.subjects[number - 1],
        outcome=outcome,
        reason=reason,
    )
