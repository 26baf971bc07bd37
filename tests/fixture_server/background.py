"""The fixture's Tasks extension (`io.modelcontextprotocol/tasks`, 2026-07-28), with the tools that the suite names.

The SDK has no tasks, so this is a middleware on raw requests: it answers calls of its own tools and `tasks/*`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mcp.shared.exceptions import MCPError

EXTENSION = "io.modelcontextprotocol/tasks"
MODERN = "2026-07-28"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
TTL_MS, POLL_MS = 3_600_000, 50
INVALID_PARAMS, INTERNAL_ERROR, MISSING_CAPABILITY = -32602, -32603, -32021
REQUIRED = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
METHODS = ("tasks/get", "tasks/update", "tasks/cancel")


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def text(line: str, error: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": line}], "isError": error}


def question(message: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "confirm": {"type": "boolean"}}}
    params = {"mode": "form", "message": message, "requestedSchema": schema}
    return {"method": "elicitation/create", "params": params}


@dataclass
class Task:
    """One task: what a client sees of it, and what it waits for."""

    number: str
    status: str = "working"
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)
    outcome: dict[str, Any] = field(default_factory=dict)
    """`result` or `error`, once it ended."""
    asked: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[None] | None = None

    def enter(self, status: str, **outcome: Any) -> None:
        if self.status not in ("completed", "failed", "cancelled"):
            self.status, self.updated, self.outcome = status, now(), outcome

    def seen(self) -> dict[str, Any]:
        asked = {"inputRequests": self.asked} if self.status == "input_required" else {}
        return {
            "taskId": self.number,
            "status": self.status,
            "createdAt": self.created,
            "lastUpdatedAt": self.updated,
            "ttlMs": TTL_MS,
            "pollIntervalMs": POLL_MS,
            **asked,
            **self.outcome,
        }

    async def ask(self, **questions: dict[str, Any]) -> dict[str, Any]:
        """Waits for the client's answers, which may come one by one."""
        self.asked = questions
        self.enter("input_required")
        while self.asked:
            await self.answered.wait()
            self.answered.clear()
        self.enter("working")
        return self.answers

    def take(self, responses: Mapping[str, Any]) -> None:
        for key in list(responses):
            if self.asked.pop(key, None) is not None:
                self.answers[key] = responses[key]
        self.answered.set()


Work = Callable[[Task, Mapping[str, Any]], Awaitable[dict[str, Any]]]


async def slow_compute(task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(float(arguments.get("seconds", 0)))
    return text(f"computed {arguments.get('label', '')} in process {os.getpid()}")


async def failing_job(task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0.2)
    return text("the job failed", error=True)


async def protocol_error_job(task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
    raise RuntimeError("the job broke")


async def confirm_delete(task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
    answers = await task.ask(**{f"confirm-{task.number}": question("Delete it?")})
    return text(json.dumps(answers))


async def multi_input(task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return text(json.dumps(await task.ask(first=question("First?"), second=question("Second?"))))


async def test_tool_with_task(task: Task, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return text(f"Hello, {arguments.get('user_name')}!")


WORK: dict[str, Work] = {
    "slow_compute": slow_compute,
    "failing_job": failing_job,
    "protocol_error_job": protocol_error_job,
    "confirm_delete": confirm_delete,
    "multi_input": multi_input,
    "test_tool_with_task": test_tool_with_task,
}
ONLY_AS_TASK = ("failing_job", "confirm_delete", "multi_input", "test_tool_with_task")


class Background:
    """The tasks of this process. `counted` gives them numbers that another server may give too."""

    def __init__(self, *, counted: bool = False) -> None:
        self.tasks: dict[str, Task] = {}
        self.count = itertools.count(1) if counted else None

    async def middleware(self, ctx: Any, call_next: Any) -> Any:
        params = ctx.params or {}
        if ctx.protocol_version != MODERN:
            return await self._old(ctx, params, call_next)
        if ctx.method == "tools/call" and params.get("name") in WORK:
            return await self._call(params["name"], params)
        if ctx.method in METHODS:
            return {"resultType": "complete", **self._about(ctx.method, params)}
        result = await call_next(ctx)
        if ctx.method == "server/discover":
            result = (
                result
                if isinstance(result, dict)
                else result.model_dump(by_alias=True, mode="json", exclude_none=True)
            )
            capabilities = result.setdefault("capabilities", {})
            capabilities["extensions"] = {**capabilities.get("extensions", {}), EXTENSION: {}}
        return result

    async def _old(self, ctx: Any, params: Mapping[str, Any], call_next: Any) -> Any:
        """To older clients a tool that need not be a task is an ordinary one."""
        name = params.get("name") if ctx.method == "tools/call" else None
        if name not in WORK or name in ONLY_AS_TASK:
            return await call_next(ctx)
        return await WORK[name](Task(""), params.get("arguments") or {})

    def _declared(self, params: Mapping[str, Any]) -> bool:
        capabilities = (params.get("_meta") or {}).get(CAPABILITIES) or {}
        return EXTENSION in (capabilities.get("extensions") or {})

    async def _call(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        arguments = params.get("arguments") or {}
        if not self._declared(params):
            if name in ONLY_AS_TASK:
                raise MCPError(MISSING_CAPABILITY, "Missing required client capability", REQUIRED)
            return {"resultType": "complete", **await WORK[name](Task(""), arguments)}
        if name == "test_tool_with_task":
            answer = (params.get("inputResponses") or {}).get("user_name")
            if answer is None:
                return {"resultType": "input_required", "inputRequests": {"user_name": question("Your name?")}}
            arguments = {"user_name": (answer.get("content") or {}).get("name")}
        number = str(next(self.count)) if self.count is not None else os.urandom(12).hex()
        task = self.tasks[number] = Task(number)
        task.work = asyncio.ensure_future(self._run(task, WORK[name], arguments))
        return {"resultType": "task", **task.seen()}

    async def _run(self, task: Task, work: Work, arguments: Mapping[str, Any]) -> None:
        try:
            result = await work(task, arguments)
        except asyncio.CancelledError:
            task.enter("cancelled")
        except Exception as error:
            task.enter("failed", error={"code": INTERNAL_ERROR, "message": str(error)})
        else:
            task.enter("completed", result=result)

    def _about(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if not self._declared(params):
            raise MCPError(MISSING_CAPABILITY, "Missing required client capability", REQUIRED)
        task = self.tasks.get(str(params.get("taskId")))
        if task is None:
            raise MCPError(INVALID_PARAMS, "Task not found")
        match method:
            case "tasks/get":
                return task.seen()
            case "tasks/update":
                task.take(params.get("inputResponses") or {})
            case "tasks/cancel":
                task.enter("cancelled")
                if task.work is not None:
                    task.work.cancel()
        return {}
