"""A search through a history, whose commits touch mm/mm_init.c: it ends at the commit that did it."""

import subprocess
from pathlib import Path

import pytest

from vmtests.bisect.measure import measure
from vmtests.bisect.plan import Plan, State
from vmtests.bisect.search import search
from vmtests.cases.history_repo import History
from vmtests.kernel.git import git
from vmtests.run.run import Run

#: The number of the commit that each metric finds, of the fixture's history.
FIRST_BAD = {"memmap": 5, "instructions": 2}


@pytest.mark.full
@pytest.mark.parametrize("metric", FIRST_BAD)
def test_the_first_bad_commit_is_found(run: Run, history: History, metric: str, tmp_path: Path) -> None:
    """Both ends differ, a commit that does not build is passed over, and the find differs from its parent again."""
    folder = run.record.folder.resolve() / f"bisect-{metric}"
    plan = Plan(
        tree=str(history.folder),
        good=history.commits[0],
        bad=history.commits[-1],
        metric=metric,
        pmem_size=1 << 30,
        rebinds=2,
        accel=run.options.accel,
    )
    found = search(plan, folder, run.progress, measure=measure)
    state = State.load(folder)
    run.record.add_evidence("bisect", run.record.folder / folder.name / state.log.name)
    assert found.step.commit == history.commits[FIRST_BAD[metric]]
    assert [parent.commit for parent in found.parents] == [history.commits[FIRST_BAD[metric] - 1]]
    assert [step.commit for step in state.steps if step.value is None] == [history.commits[3]]
    assert "pageblock_migratetype_init_range_of" in next(step.reason for step in state.steps if step.value is None)

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--bare", "--shared", history.folder, clone], check=True)
    git("bisect", "replay", state.log, cwd=clone)
    assert git("rev-parse", "refs/bisect/bad", cwd=clone).stdout.strip() == found.step.commit
