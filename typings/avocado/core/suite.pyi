from collections.abc import Sequence
from typing import Any

from avocado.core.job import Job
from avocado.core.nrunner.runnable import Runnable

class TestSuite:
    name: str
    tests: Sequence[Runnable]
    config: dict[str, Any]
    def __init__(
        self,
        name: str,
        config: dict[str, Any] | None = ...,
        tests: Sequence[Runnable] | None = ...,
        job_config: dict[str, Any] | None = ...,
    ) -> None: ...
    def run(self, job: Job) -> set[str]: ...
