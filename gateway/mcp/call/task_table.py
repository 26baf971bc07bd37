"""Which backend a task belongs to, and which principal: a task's id says neither.

An id is a backend's own word, so two backends may choose the same one (many count), and a hostile one may choose its
neighbour's. A task is therefore known by its principal, id *and* backend; where a route shows several backends and the
id alone is ambiguous, the request is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.mcp.call.principal import Principal
from gateway.mcp.wire import codec

EXTENSION: Final = "io.modelcontextprotocol/tasks"
METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
"""The methods of the extension; the tasks of 2025-11-25 had more."""
_MAX_TASKS: Final = 2_000
"""Of one principal; the oldest is forgotten first."""
_MAX_PRINCIPALS: Final = 1_000
_MAX_ID: Final = 1024
_MAX_TASK: Final = 16 * 1024
"""Bytes of a task that is kept whole; of a larger one only the id is."""


@dataclass(frozen=True, slots=True)
class Known:
    """A task as it began."""

    task_id: str
    backend: str
    tool: str
    """As the backend names it."""
    task: Mapping[str, Any] = field(default_factory=dict)


class TaskTable:
    """The newest tasks of each principal."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[Principal, OrderedDict[tuple[str, str], Known]] = OrderedDict()

    def learn(self, result: Mapping[str, Any], principal: Principal, backend: str, tool: str) -> None:
        """Remember the task that a result began, if it did."""
        task = _task_of(result)
        if task is None:
            return
        task_id = task["taskId"]
        mine: OrderedDict[tuple[str, str], Known] = self._tasks.setdefault(principal, OrderedDict())
        self._tasks.move_to_end(principal)
        if (task_id, backend) not in mine:
            kept = task if len(codec.dumps(task)) <= _MAX_TASK else {"taskId": task_id}
            mine[task_id, backend] = Known(task_id, backend, tool, kept)
        if len(mine) > _MAX_TASKS:
            mine.popitem(last=False)
        if len(self._tasks) > _MAX_PRINCIPALS:
            self._tasks.popitem(last=False)

    def find(self, task_id: str, principal: Principal, backends: Collection[str]) -> list[Known]:
        """This principal's tasks of that id on these backends."""
        mine: Mapping[tuple[str, str], Known] = self._tasks.get(principal, {})
        return [mine[task_id, backend] for backend in backends if (task_id, backend) in mine]

    def is_anothers(self, task_id: str, principal: Principal, backend: str) -> bool:
        """Whether the backend's task of that id belongs to another principal only."""
        key = (task_id, backend)
        return key not in self._tasks.get(principal, {}) and any(key in tasks for tasks in self._tasks.values())

    def of(self, principal: Principal, backends: Collection[str]) -> list[Known]:
        """The principal's tasks on these backends."""
        return [known for known in self._tasks.get(principal, {}).values() if known.backend in backends]


def _task_of(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The task that a result is (2026-07-28) or holds (2025-11-25)."""
    task = result if result.get("resultType") == "task" else result.get("task")
    if not isinstance(task, dict):
        return None
    task_id = task.get("taskId")
    return task if isinstance(task_id, str) and len(task_id) <= _MAX_ID else None
