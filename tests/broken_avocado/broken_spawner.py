"""A spawner of avocado that can start nothing."""

from avocado.core.task.runtime import RuntimeTask
from avocado.plugins.spawners.process import ProcessSpawner


class BrokenSpawner(ProcessSpawner):
    """Is there, and never starts a task."""

    description = "Starts nothing"

    async def spawn_task(self, _: RuntimeTask) -> bool:
        """Fail as avocado's own do, quietly."""
        return False
