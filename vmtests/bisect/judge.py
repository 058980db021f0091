"""The judge of `git bisect run`: measures the commit BISECT_HEAD, and says good (0), bad (1) or cannot be tested (125).

A program of its own, `python -m vmtests.bisect.judge FOLDER SOCKET`, in the bare repository of the search:

- FOLDER is that of the search's record, which says what is looked for and gets the step;
- SOCKET is a file descriptor that the search holds the other end of: when that has gone, the judge goes too.

Anything else that ends it is a failure of ours or of the host's, which the record keeps; git stops at the status 128.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

from vmtests.bisect.plan import Measure, Measured, State, Step
from vmtests.errors import VmtestsError
from vmtests.kernel.git import git
from vmtests.report.progress import Progress
from vmtests.run.interrupts import unwind_on_sigterm

GOOD, BAD, CANNOT_TEST = 0, 1, 125
ABORT = 128

VERDICTS = {GOOD: "good", BAD: "bad", CANNOT_TEST: "cannot-test"}

#: What git bisect calls them.
WORDS = {GOOD: "good", BAD: "bad", CANNOT_TEST: "skip"}


def judge(state: State, value: float | None) -> int:
    """Return what a value says: which end's it is."""
    if value is None:
        return CANNOT_TEST
    assert state.threshold is not None, "the ends are known"
    return BAD if (value > state.threshold) is state.rises else GOOD


def step(
    state: State, commit: str, role: str, *, repository: Path, measure: Measure, progress: Progress
) -> tuple[Step, Measured]:
    """Measure a commit and keep what was seen of it; once the ends are known, with a verdict."""
    subject = git("show", "--no-patch", "--format=%s", commit, cwd=repository).stdout.strip()
    record = f"{len(state.steps) + 1:02}-{role}-{commit[:12]}"
    progress.say(f"{record}: {subject}")
    seen = measure(state.plan, commit, state.folder / record, progress)
    made = Step(
        commit=commit,
        subject=subject,
        role=role,
        value=seen.value,
        unit=seen.unit,
        reason=seen.reason,
        record=record,
        seconds=seen.seconds,
        verdict="" if state.threshold is None else VERDICTS[judge(state, seen.value)],
    )
    state.steps.append(made)
    state.save()
    state.note(f"# {role}: {made}")
    progress.say(f"  {made}")
    return made, seen


def main(arguments: list[str], measure: Measure) -> int:
    """Judge one commit by what `measure` sees of it."""
    _end_with(socket.socket(fileno=int(arguments[1])))
    unwind_on_sigterm()
    state, repository = State.load(Path(arguments[0])), Path.cwd()
    try:
        commit = git("rev-parse", "BISECT_HEAD", cwd=repository).stdout.strip()
        made, _ = step(state, commit, "step", repository=repository, measure=measure, progress=Progress(sys.stderr))
    except VmtestsError as error:
        print(f"vmtests: {error}", file=sys.stderr)
        state.aborted = error.exit_code
        state.save()
        return ABORT
    status = judge(state, made.value)
    state.note(f"git bisect {WORDS[status]} {commit}")
    return status


def _end_with(lifeline: socket.socket) -> None:
    """End by SIGTERM, and so in order, when the search has gone."""

    def watch() -> None:
        lifeline.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    from vmtests.bisect.measure import measure

    sys.exit(main(sys.argv[1:], measure))
