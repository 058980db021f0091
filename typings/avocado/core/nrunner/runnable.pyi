from typing import Any

class Runnable:
    uri: str
    args: tuple[str, ...]
    kwargs: dict[str, Any]
    def __init__(self, kind: str, uri: str, *args: str, identifier: str | None = ..., **kwargs: object) -> None: ...
