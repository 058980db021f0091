"""What a search looks for and with what, and what it has seen: the file `bisect.json` of its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from vmtests import files
from vmtests.errors import UsageError
from vmtests.record import BindEntry
from vmtests.report import words
from vmtests.report.progress import Progress
from vmtests.run.options import Options

METRICS = ("memmap", "instructions", "time")

#: The unit of the metric "memmap".
MISMATCHES = "wrong"

#: What the kernels of a search are called in its records.
KERNEL = "bisect"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search; all of it can be JSON.

    Attributes:
        tree: the repository's folder.
        good, bad: the ends, full names of commits.
        metric: one of METRICS.
        boots: of each commit; more than one is for times, which differ from boot to boot.
    """

    tree: str
    good: str
    bad: str
    metric: str = "memmap"
    pmem_size: int = 4 << 30
    mode: str = "fsdax"
    map: str = "dev"
    align: int = 2 << 20
    rebinds: int = 3
    boots: int = 1
    accel: str = "auto"
    config: str | None = None
    fragments: tuple[str, ...] = ()
    cc: str = "gcc"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(f"--metric {self.metric}: it can be {', '.join(METRICS)}")
        self.options(self.good, Path())

    @property
    def clock(self) -> str:
        """The clock that the metric is read by."""
        return {"instructions": "icount", "time": "wall"}.get(self.metric, "auto")

    def options(self, commit: str, folder: Path) -> Options:
        """Return the options of the run that looks at one commit and keeps its record in the folder."""
        return Options(
            kernels=(f"{KERNEL}={self.tree}@{commit}",),
            pmem_size=self.pmem_size,
            mode=self.mode,
            map=self.map,
            align=self.align,
            rebinds=self.rebinds,
            boots=str(self.boots),
            accel=self.accel,
            clock=self.clock,
            config=None if self.config is None else Path(self.config),
            fragments=tuple(map(Path, self.fragments)),
            cc=self.cc,
            record=folder,
            # A wrong memmap is what is looked for: each one's dump would be gigabytes.
            dump="never",
        )


@dataclass(frozen=True)
class Measured:
    """What a commit showed.

    Attributes:
        value: of the metric, None where it cannot be told; and why not, in a line.
        unit: of the value.
        binds: its samples.
        seconds: with the build.
    """

    value: float | None
    unit: str
    reason: str
    binds: tuple[BindEntry, ...]
    seconds: float


#: What measures a commit for a plan, keeps the run's record in a folder, and says how far it is.
Measure: TypeAlias = Callable[[Plan, str, Path, Progress], Measured]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was seen of one commit.

    Attributes:
        commit, subject: its full name, and its first line.
        role: "good", "bad" for the ends, "step" on the way, "found" and "parent" when the find is verified.
        value: the metric: mismatches, instructions a page, or milliseconds; None where it cannot be told.
        unit: of the value.
        reason: why it cannot be told, in a line.
        record: the folder of the run's record, relative to the search's.
        verdict: "good", "bad", or "cannot-test".
    """

    commit: str
    subject: str
    role: str
    value: float | None
    unit: str
    reason: str = ""
    record: str
    seconds: float
    verdict: str = ""

    def __str__(self) -> str:
        said = self.reason if self.value is None else figure(self.value, self.unit)
        return f"{self.commit[:12]} {self.subject}: {said}" + (f": {self.verdict}" if self.verdict else "")


def figure(value: float, unit: str) -> str:
    """Return a value of a metric for people."""
    return f"{value:,.0f} {unit}" if unit == MISMATCHES else words.value(value, unit)


@dataclass
class State:
    """A search as far as it has come, kept in the folder `folder`; each save replaces the file whole."""

    folder: Path
    plan: Plan
    # What is more is of the end with the greater value: half-way between the ends, or 0 wrong struct pages. None until
    # both are known.
    threshold: float | None = None
    # Whether the bad end's value is the greater one.
    rises: bool = True
    steps: list[Step] = field(default_factory=list)
    # Our exit code for what the judge met, where that was no verdict on a commit.
    aborted: int | None = None
    found: str | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "bisect.json"

    @property
    def log(self) -> Path:
        """The log, which `git bisect replay` reads."""
        return self.folder / "bisect.log"

    def save(self) -> None:
        """Write the file."""
        files.replace(self.path, json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "plan": asdict(self.plan),
            "threshold": self.threshold,
            "rises": self.rises,
            "steps": [asdict(step) for step in self.steps],
            "aborted": self.aborted,
            "found": self.found,
        }

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read the file in the folder."""
        said = json.loads((folder / "bisect.json").read_text(encoding="utf-8"))
        plan = Plan(**{**said["plan"], "fragments": tuple(said["plan"]["fragments"])})
        steps = [Step(**step) for step in said["steps"]]
        return cls(folder, plan, said["threshold"], said["rises"], steps, said["aborted"], said["found"])

    def note(self, *lines: str) -> None:
        """Add lines to the log."""
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def seen(self, roles: Sequence[str]) -> list[Step]:
        """Return the steps that were made in these roles, in their order."""
        return [step for step in self.steps if step.role in roles]
