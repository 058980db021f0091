from collections.abc import Sequence
from typing import Any

class TaskStatusService:
    uri: str
    def __init__(self, uri: str) -> None: ...
    def post(self, status: dict[str, Any]) -> bool: ...
    def close(self) -> None: ...

class Task:
    identifier: object
    job_id: str
    status_services: Sequence[TaskStatusService]
