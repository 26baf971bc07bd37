"""Which backend a task belongs to, and whose it is: a task's id says neither."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final

from gateway.mcp import wire
from gateway.mcp.caller import Principal

_MAX_TASKS: Final = 10_000
_MAX_ID: Final = 1024
_MAX_TASK: Final = 16 * 1024
"""Bytes of a response whose task is kept whole; of a larger one only the id is."""


class TaskTable:
    """The newest tasks, by id."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, tuple[Principal, str, dict[str, Any]]] = OrderedDict()

    def learn(self, message: bytes, principal: Principal, backend: str) -> None:
        """Remember the task that a response began, if it did."""
        result = wire.loads(message).get("result")
        if not isinstance(result, dict):
            return
        task = result.get("task")
        task = task if isinstance(task, dict) else result
        task_id = task.get("taskId")
        if isinstance(task_id, str) and len(task_id) <= _MAX_ID and task_id not in self._tasks:
            task = task if len(message) <= _MAX_TASK else {"taskId": task_id}
            self._tasks[task_id] = (principal, backend, task)
            if len(self._tasks) > _MAX_TASKS:
                self._tasks.popitem(last=False)

    def owner(self, task_id: str, principal: Principal) -> str | None:
        """The backend of this principal's task; None for anybody else's."""
        known = self._tasks.get(task_id)
        return known[1] if known is not None and known[0] == principal else None

    def of(self, principal: Principal, backends: Collection[str]) -> list[dict[str, Any]]:
        """The principal's tasks on these backends, as they began."""
        return [task for owner, backend, task in self._tasks.values() if owner == principal and backend in backends]
