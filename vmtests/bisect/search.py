"""The search: both ends first, then `git bisect run` with our judge, then the find against its parents.

All of it in a bare repository of our own that borrows the objects of the user's, which is only read.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vmtests.bisect.judge import step
from vmtests.bisect.plan import Measure, Measured, Plan, State, Step, figure
from vmtests.command import require
from vmtests.errors import ExitCode, HostFailure, UsageError, VmtestsError
from vmtests.kernel.commits import borrow, commit_of
from vmtests.kernel.git import environment, git
from vmtests.kernel.source import split
from vmtests.report.progress import Progress
from vmtests.timing import verdict

#: The judge's command line, without its arguments.
JUDGE = (sys.executable, "-m", "vmtests.bisect.judge")

#: How long the judge may take to leave, with its guest and its build.
LEAVE_SECONDS = 60.0

# What `git bisect run` ends with when only commits are left that cannot be tested.
_ONLY_SKIPPED = 2


class NoVerdict(VmtestsError):
    """The search came to nothing, for a reason that lies in the commits."""

    exit_code = ExitCode.NO_VERDICT
    kind = "no-verdict"


@dataclass(frozen=True)
class Found:
    """The first bad commit, and the steps in which it and its parents were measured again."""

    step: Step
    parents: tuple[Step, ...]


def ends(tree: str, good: str, bad: str) -> tuple[Path, str, str]:
    """Return the repository's folder and the full names of the ends.

    Raises:
        UsageError: there is no such repository or revision, or no commit between them.
    """
    folder, revision = split(tree)
    if revision is not None:
        raise UsageError(f"--kernel-tree {tree}: give the folder alone, --good and --bad say which revisions")
    if git("rev-parse", "--git-dir", cwd=folder, check=False).returncode != 0:
        raise UsageError(f"--kernel-tree {folder} is no git repository")
    names = []
    for option, given in (("--good", good), ("--bad", bad)):
        if (commit := commit_of(folder, given)) is None:
            raise UsageError(f"{option} {given}: {folder} has no such revision: see `git -C {folder} log`")
        names.append(commit)
    first, last = names
    if first == last:
        raise UsageError(f"--good {good} and --bad {bad} are the same commit {first[:12]}")
    if git("merge-base", "--is-ancestor", first, last, cwd=folder, check=False).returncode != 0:
        raise UsageError(f"--good {good} is no ancestor of --bad {bad}: a search goes through what lies between them")
    return folder, first, last


def search(plan: Plan, folder: Path, progress: Progress, *, measure: Measure, judge: Sequence[str] = JUDGE) -> Found:
    """Find the first bad commit.

    Args:
        plan: what is looked for.
        folder: of the search's record: what was seen of each commit, and a log that `git bisect replay` takes.
        progress: says what is going on.
        measure: measures the ends, and the find and its parents in the end.
        judge: the command line of what judges the commits between, without its arguments.

    Raises:
        UsageError: the folder holds a record already.
        NoVerdict: the ends do not differ, only commits are left that cannot be tested, or the find is not reproduced.
        HostFailure: this host cannot tell.
    """
    folder = folder.resolve()
    state = State(folder, plan)
    if state.path.exists():
        raise UsageError(f"{folder} holds the record of a search already: give --record another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    state.save()
    with _clone(plan, folder) as clone:
        look = _Look(clone, measure, progress)
        _measure_ends(state, look)
        found = _between(state, look, judge)
        state = State.load(folder)  # with the judge's steps
        state.found = found
        state.save()
        return _verified(state, look, found)


@dataclass(frozen=True)
class _Look:
    """How a commit is looked at in this process."""

    clone: Path
    measure: Measure
    progress: Progress

    def __call__(self, state: State, commit: str, role: str) -> tuple[Step, Measured]:
        return step(state, commit, role, repository=self.clone, measure=self.measure, progress=self.progress)


@contextmanager
def _clone(plan: Plan, folder: Path) -> Iterator[Path]:
    """Make the repository of our own; it goes when the block is left."""
    clone = folder / "clone"
    clone.mkdir()
    try:
        borrow(Path(plan.tree), clone)
        yield clone
    finally:
        shutil.rmtree(clone, ignore_errors=True)


def _measure_ends(state: State, look: _Look) -> None:
    """Measure both ends, and set the threshold between them."""
    plan = state.plan
    state.note(f"# looking for: {plan.metric}")
    good, at_good = look(state, plan.good, "good")
    bad, at_bad = look(state, plan.bad, "bad")
    for end in (good, bad):
        if end.value is None:
            raise NoVerdict(f"the {end.role} end cannot be tested, so there is nothing to look for: {end}")
    assert good.value is not None
    assert bad.value is not None
    if reason := _alike(plan, at_good, at_bad):
        raise NoVerdict(f"the ends do not differ, so there is nothing to look for: {reason}")
    # One wrong page is a wrong memmap, however many the bad end has.
    state.threshold = 0.0 if plan.metric == "memmap" else (good.value + bad.value) / 2
    state.rises = bad.value > good.value
    state.save()
    state.note(
        f"# {'bad' if state.rises else 'good'} is more than {figure(state.threshold, good.unit)}",
        "git bisect start",
        f"git bisect bad {plan.bad}",
        f"git bisect good {plan.good}",
    )


def _alike(plan: Plan, good: Measured, bad: Measured) -> str:
    """Return why the ends do not differ, nothing if they do."""
    assert good.value is not None
    assert bad.value is not None
    both = f"good {figure(good.value, good.unit)}, bad {figure(bad.value, bad.unit)}"
    if plan.metric == "memmap":
        if good.value:
            return f"the memmap of the good end is wrong too ({both})"
        return "" if bad.value else f"the memmap of the bad end is right too ({both})"
    binds = [replace(bind, kernel=name) for name, end in (("good", good), ("bad", bad)) for bind in end.binds]
    [compared] = verdict.compare_all(binds, ("good", "bad"), plan.clock, metrics=("rebind",))
    return "" if compared.verdict in ("faster", "slower") else f"{compared.verdict} ({both})"


def _between(state: State, look: _Look, judge: Sequence[str]) -> str:
    """Return the first bad commit between the ends."""
    plan, clone = state.plan, look.clone
    left = int(git("rev-list", "--count", f"{plan.good}..{plan.bad}", cwd=clone).stdout)
    look.progress.say(f"{left} commits, of which one is the first bad one")
    if left == 1:
        return plan.bad
    git("update-ref", "--no-deref", "HEAD", plan.bad, cwd=clone)  # where it is to begin, and to end
    git("bisect", "start", plan.bad, plan.good, cwd=clone)
    status = _run(clone, [*judge, str(state.folder)])
    if status == _ONLY_SKIPPED:
        untested = [made for made in State.load(state.folder).seen(["step"]) if made.value is None]
        raise NoVerdict(
            "the first bad commit is one of several that cannot be tested, or the one behind them",
            output="\n".join(map(str, untested)),
            evidence=[state.log],
        )
    if status != 0:
        aborted = State.load(state.folder).aborted
        kind = HostFailure if aborted == ExitCode.HOST_FAILED else VmtestsError
        raise kind(f"a commit could not be judged: git bisect run ended with status {status}", evidence=[state.log])
    return git("rev-parse", "refs/bisect/bad", cwd=clone).stdout.strip()


def _run(clone: Path, judge: Sequence[str]) -> int:
    """Run `git bisect run` to its end and return its status; nothing of it is left when we are interrupted."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [require("git"), "bisect", "run", *judge, str(theirs.fileno())],
                cwd=clone,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                # git goes at once; the judge has a guest and a build to end, and its end of the socket is its life.
                os.killpg(process.pid, signal.SIGTERM)
                ours.settimeout(LEAVE_SECONDS)
                try:
                    ours.recv(1)
                except TimeoutError:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _verified(state: State, look: _Look, commit: str) -> Found:
    """Measure the find and its parents again."""
    parents = git("show", "--no-patch", "--format=%P", commit, cwd=look.clone).stdout.split()
    found, _ = look(state, commit, "found")
    before = tuple(look(state, parent, "parent")[0] for parent in parents)
    wrong = [made for made, wanted in [(found, "bad"), *((one, "good") for one in before)] if made.verdict != wanted]
    if wrong:
        raise NoVerdict(
            f"the search ends at {commit[:12]}, which is not reproduced",
            output="\n".join(map(str, wrong)),
            evidence=[state.log],
        )
    state.note(f"# first bad commit: [{commit}] {found.subject}")
    return Found(found, before)
