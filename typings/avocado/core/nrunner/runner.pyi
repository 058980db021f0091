from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from avocado.core.nrunner.runnable import Runnable

class BaseRunner:
    name: str
    description: str
    CONFIGURATION_USED: ClassVar[list[str]]
    def run(self, runnable: Runnable) -> Iterator[dict[str, Any]]: ...
    def running_loop(self, condition: Callable[[], object]) -> Iterator[dict[str, Any]]: ...
