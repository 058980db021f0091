"""Spawners of avocado: one that can start nothing, and one that leaves a process behind."""

import subprocess

from avocado.core.task.runtime import RuntimeTask
from avocado.plugins.spawners.process import ProcessSpawner

from vmtests.nightly.spawner import WatchingSpawner


class BrokenSpawner(ProcessSpawner):
    """Is there, and never starts a task."""

    description = "Starts nothing"

    async def spawn_task(self, _: RuntimeTask) -> bool:
        """Fail as avocado's own do, quietly."""
        return False


class LeavingSpawner(WatchingSpawner):
    """Starts a helper with each cell, which nothing ends but a signal, as the remote spawner does."""

    description = "Leaves processes behind"

    async def spawn_task(self, runtime_task: RuntimeTask) -> bool:
        """Start the helper and the cell."""
        subprocess.Popen(["sleep", "600"])
        return await super().spawn_task(runtime_task)
