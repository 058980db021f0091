from typing import Any

class Result:
    tests: list[dict[str, Any]]
    passed: int
    skipped: int
