from collections.abc import Callable
from typing import ClassVar

class BaseRunnerApp:
    PROG_NAME: str
    PROG_DESCRIPTION: str
    RUNNABLE_KINDS_CAPABLE: ClassVar[list[str]]
    def __init__(self, echo: Callable[..., object] = ...) -> None: ...
    def run(self) -> None: ...
