from collections.abc import Sequence
from typing import Any, Self

from avocado.core.result import Result
from avocado.core.suite import TestSuite

class Job:
    config: dict[str, Any]
    logdir: str
    result: Result
    interrupted_reason: str | None
    def __init__(self, config: dict[str, Any] | None = ..., test_suites: Sequence[TestSuite] | None = ...) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    @property
    def timeout(self) -> float: ...
    def run(self) -> int: ...
