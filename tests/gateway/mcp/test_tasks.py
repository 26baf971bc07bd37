"""The Tasks extension through the gateway: ids lead back to their backend, for who began them and under their view."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.mcp import suite
from tests.gateway.mcp.clients import Modern, legacy, modern
from tests.gateway.mcp.fakes import FIXTURE, Gateway, config, gateway, server, token_digest

pytestmark = pytest.mark.anyio
TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
CLIENTS: dict[str, Any] = {name: {"token_sha256": token_digest(name)} for name in ("alice", "bob")}
COUNTING = ("env", "FIXTURE_COUNTS=1", *FIXTURE)
"""Servers that give their tasks the numbers 1, 2, 3, as each other's."""


async def about(client: Modern, method: str, task: str, **more: Any) -> dict[str, Any]:
    return await client.request(method, {"taskId": task, **more}, mcp_name=task)


async def begun(client: Modern, tool: str, **arguments: Any) -> str:
    result = (await client.call(tool, arguments))["result"]
    assert result["resultType"] == "task", result
    return str(result["taskId"])


async def ended(client: Modern, task: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (seen := (await about(client, "tasks/get", task))["result"])["status"] in ("working", "input_required"):
            await asyncio.sleep(0.02)
    return seen


@asynccontextmanager
async def two(http: bool = True, **clients: Any) -> AsyncIterator[Gateway]:
    servers = {"one": server(http=http), "two": server(http=http)}
    async with gateway(config(servers, clients={**CLIENTS, **clients})) as running:
        yield running


@pytest.mark.parametrize("http", [True, False], ids=["http", "stdio"])
async def test_a_task_leads_back_to_its_backend_from_every_route(http: bool) -> None:
    async with two(http) as running, modern(running.url(), token="alice", capabilities=TASKS) as client:
        await client.settled()
        discovered = (await client.request("server/discover"))["result"]["capabilities"]
        assert discovered["extensions"] == {"io.modelcontextprotocol/tasks": {}}
        tasks = [await begun(client, f"{name}__slow_compute", label=name) for name in ("one", "two", "one")]
        texts = [(await ended(client, task))["result"]["content"][0]["text"] for task in tasks]
        words = [text.split() for text in texts]
        assert [word[1] for word in words] == ["one", "two", "one"]
        assert words[0][-1] == words[2][-1] != words[1][-1], "the processes that began them"
        async with modern(running.url("two"), token="alice", capabilities=TASKS) as other:
            assert (await ended(other, tasks[1]))["status"] == "completed"
            assert (await about(other, "tasks/get", tasks[0]))["error"]["code"] == -32602, "not of this server"


async def test_a_task_that_asks_is_answered_and_one_that_runs_is_cancelled() -> None:
    async with two() as running, modern(running.url(), token="alice", capabilities=TASKS) as client:
        task = await begun(client, "two__confirm_delete")
        seen = (await about(client, "tasks/get", task))["result"]
        assert seen["status"] == "input_required"
        (key,) = seen["inputRequests"]
        answers = {"inputResponses": {key: {"action": "accept", "content": {"confirm": True}}}}
        assert (await about(client, "tasks/update", task, **answers))["result"] == {"resultType": "complete"}
        assert '"confirm": true' in (await ended(client, task))["result"]["content"][0]["text"]
        task = await begun(client, "one__slow_compute", seconds=60)
        assert (await about(client, "tasks/cancel", task))["result"] == {"resultType": "complete"}
        assert (await ended(client, task))["status"] == "cancelled"


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_the_task_of_another_principal_is_not_there(method: str) -> None:
    async with two() as running:
        async with (
            modern(running.url(), token="alice", capabilities=TASKS) as alice,
            modern(running.url(), token="bob", capabilities=TASKS) as bob,
            modern(running.url("one"), token="bob", capabilities=TASKS) as direct,
        ):
            task = await begun(alice, "one__slow_compute", seconds=60)
            for thief in (bob, direct):
                said = await about(thief, method, task, inputResponses={})
                made_up = await about(thief, method, "made-up", inputResponses={})
                assert said["error"] == {"code": -32602, "message": f"Unknown task: {task}"}
                assert made_up["error"]["message"] == "Unknown task: made-up", "no way to tell one from the other"
            assert (await about(alice, "tasks/get", task))["result"]["status"] == "working"


@pytest.mark.parametrize(
    "narrower",
    [{"servers": ["two"]}, {"tools": {"deny": ["*slow*"]}}, {"tools": {"allow": ["two__*", "one__echo"]}}],
    ids=["server", "deny", "allow"],
)
async def test_who_may_not_see_the_tool_any_more_has_lost_its_task_too(narrower: dict[str, Any]) -> None:
    async with two() as running, modern(running.url(), token="alice", capabilities=TASKS) as alice:
        task = await begun(alice, "one__slow_compute", seconds=60)
        other = await begun(alice, "two__confirm_delete")
        clients = {**CLIENTS, "alice": {**CLIENTS["alice"], **narrower}}
        servers = {"one": server(http=True), "two": server(http=True)}
        running.endpoint.apply(config(servers, clients=clients))
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            assert (await about(alice, method, task))["error"]["message"] == f"Unknown task: {task}"
        assert (await about(alice, "tasks/get", other))["result"]["status"] == "input_required"
        running.endpoint.apply(config(servers, clients=CLIENTS))
        assert (await about(alice, "tasks/get", task))["result"]["status"] == "working", "nobody cancelled it"


async def test_two_backends_that_count_alike_are_never_mixed_up() -> None:
    servers = {"one": server(), "two": server()}
    async with gateway(config(servers), dict.fromkeys(servers, COUNTING)) as running:
        async with modern(running.url(), capabilities=TASKS) as client:
            first = await begun(client, "one__slow_compute", label="first")
            assert (await ended(client, first))["result"]["content"][0]["text"].startswith("computed first")
            assert await begun(client, "two__slow_compute", label="second") == first == "1"
            said = await about(client, "tasks/get", "1")
            assert said["error"]["message"] == "Task 1 could be of one, two: use /servers/NAME/mcp for it"
        for name, label in (("one", "first"), ("two", "second")):
            async with modern(running.url(name), capabilities=TASKS) as client:
                assert (await ended(client, "1"))["result"]["content"][0]["text"].startswith(f"computed {label}")


async def test_requests_that_the_extension_forbids_are_refused() -> None:
    async with two() as running, modern(running.url(), token="alice", capabilities=TASKS) as client:
        task = await begun(client, "one__slow_compute", seconds=60)
        for name in ({"mcp_name": "another"}, {}):
            said = await client.request("tasks/get", {"taskId": task}, **name)
            assert (client.status, said["error"]["code"]) == (400, -32020)
        for method in ("tasks/list", "tasks/result"):
            said = await client.request(method, {"taskId": task}, mcp_name=task)
            assert (client.status, said["error"]["code"]) == (404, -32601)
        async with modern(running.url(), token="alice") as plain:
            said = await about(plain, "tasks/get", task)
            assert (plain.status, said["error"]["code"]) == (400, -32021)
            assert said["error"]["data"] == {"requiredCapabilities": TASKS}
            assert (await plain.call("one__slow_compute"))["result"]["resultType"] == "complete"
            assert (await plain.call("one__failing_job"))["error"]["code"] == -32021


@pytest.mark.parametrize("era", ["", "modern"], ids=["both eras", "a modern backend"])
async def test_an_older_client_gets_an_ordinary_answer_whatever_it_declares(era: str) -> None:
    command = ("env", f"FIXTURE_ERA={era}", *FIXTURE)
    settings = config({"one": server()})
    async with gateway(settings, {"one": command}) as running, legacy(running.url(), capabilities=TASKS) as client:
        assert (await client.text("one__slow_compute", {"label": "old"})).startswith("computed old")
        assert (await client.request("tasks/list"))["result"] == {"tasks": []}


SCENARIOS = (
    "tasks-lifecycle tasks-capability-negotiation tasks-wire-fields tasks-request-state-removal tasks-mrtr-input "
    "tasks-request-headers tasks-dispatch-and-envelope tasks-required-task-error tasks-mrtr-composition"
).split()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("http", [True, False], ids=["http", "stdio"])
async def test_the_conformance_suites_tasks_scenarios_pass_through_the_gateway(http: bool, tmp_path: Path) -> None:
    program = suite.package("conformance") / "dist" / "index.js"
    async with gateway(config({"fixture": server(http=http)})) as running:
        failed = {}
        for scenario in SCENARIOS:
            process = await asyncio.create_subprocess_exec(
                suite.node(), str(program), "server", "--url", running.url("fixture"), "--scenario", scenario,
                "-o", str(tmp_path / scenario), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said = (await process.communicate())[0].decode()
            if process.returncode or not re.search(r"Passed: \d+/\d+, 0 failed", said):
                failed[scenario] = said[-3000:]
    assert not failed, "\n\n".join(failed.values())
