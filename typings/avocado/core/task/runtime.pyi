import asyncio.subprocess

from avocado.core.nrunner.task import Task

class _Handle:
    process: asyncio.subprocess.Process

class RuntimeTask:
    task: Task
    spawner_handle: _Handle | None
