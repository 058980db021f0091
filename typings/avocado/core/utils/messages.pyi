from typing import Any

class StartedMessage:
    @classmethod
    def get(cls) -> dict[str, Any]: ...

class FinishedMessage:
    @classmethod
    def get(cls, result: str, fail_reason: str | None = ..., **kwargs: str) -> dict[str, Any]: ...

class FileMessage:
    @classmethod
    def get(cls, msg: bytes | str, path: str) -> dict[str, Any]: ...
