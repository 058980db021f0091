"""avocado's process spawner, which says so when a cell's runner cannot start or ends without a result.

avocado 113 waits for ever for the result of a runner that was killed (`Worker.monitor()` in
avocado/core/task/statemachine.py), and counts one that could not start as skipped, which it does not mind.
"""

from __future__ import annotations

from typing import Any

from avocado.core.nrunner.task import TaskStatusService
from avocado.core.task.runtime import RuntimeTask
from avocado.core.utils.messages import FinishedMessage
from avocado.plugins.spawners.process import ProcessSpawner

#: The spawner's name.
NAME = "vmtests"


class Watching:
    """What a spawner needs to report a runner that is lost, on the runner's behalf."""

    config: dict[str, Any]

    def lost(self, task: RuntimeTask, why: str) -> None:
        """Post the result that the runner cannot."""
        where = self.config["run.status_server_listen"]
        if self.config["run.status_server_auto"]:
            where = task.task.status_services[0].uri
        service = TaskStatusService(where)
        identity = {"id": str(task.task.identifier), "job_id": task.task.job_id}
        service.post(FinishedMessage.get("error", f"lost: {why}", **identity))
        service.close()


class WatchingSpawner(Watching, ProcessSpawner):
    """Runs cells as processes of this host."""

    description = "Process based spawner that reports lost runners"

    async def spawn_task(self, runtime_task: RuntimeTask) -> bool:
        """Start the runner of a cell."""
        started = bool(await super().spawn_task(runtime_task))
        if not started:
            self.lost(runtime_task, "its runner could not be started")
        return started

    def is_task_alive(self, runtime_task: RuntimeTask) -> bool:
        """Return whether the runner runs; one that has ended is seen to."""
        alive = bool(super().is_task_alive(runtime_task))
        if not alive:
            self._ended(runtime_task)
        return alive

    async def wait_task(self, runtime_task: RuntimeTask) -> None:
        """Wait for the runner's end, and see to it."""
        await super().wait_task(runtime_task)
        self._ended(runtime_task)

    def _ended(self, task: RuntimeTask) -> None:
        status = task.spawner_handle.process.returncode if task.spawner_handle is not None else None
        if status:
            self.lost(task, f"its runner ended with status {status}" if status > 0 else f"signal {-status} killed it")
