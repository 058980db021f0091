"""The judge of a search, with a measurement in the place of the real one: what the file `value` of a commit says.

A number is the value, "none" is a commit that cannot be tested, "host" a host that cannot tell, "wait" one that takes
until it is ended, in which the file `waits` appears beside the record's folder.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path

from tests.test_record import BIND
from vmtests.bisect import judge
from vmtests.bisect.plan import MISMATCHES, Measured, Plan
from vmtests.errors import HostFailure
from vmtests.kernel.git import git
from vmtests.report.progress import Progress


def measure(plan: Plan, commit: str, folder: Path, _: Progress) -> Measured:
    """Stand in for vmtests.bisect.measure."""
    folder.mkdir()
    said = git("show", f"{commit}:value", cwd=Path(plan.tree)).stdout.strip()
    if said == "host":
        raise HostFailure("the disk is full")
    if said == "wait":
        try:
            (folder.parent.parent / "waits").touch()
            signal.pause()
        finally:
            (folder.parent.parent / "left").touch()
    if said == "none":
        return Measured(None, "", "it does not build", (), 1.0)
    unit = MISMATCHES if plan.metric == "memmap" else "instructions/page"
    binds = tuple(
        dataclasses.replace(
            BIND, kernel="bisect", index=index, clock=plan.clock, duration_ns=round(float(said) * BIND.pages)
        )
        for index in range(3)
    )
    return Measured(float(said), unit, "", binds, 1.0)


if __name__ == "__main__":
    sys.exit(judge.main(sys.argv[1:], measure))
