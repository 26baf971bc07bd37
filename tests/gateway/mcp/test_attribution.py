"""Whose question is it? What a backend says must reach the client whose call caused it, and nobody else."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from tests.gateway.mcp.clients import Legacy, legacy, modern
from tests.gateway.mcp.fakes import config, eventually, gateway, server, token_digest

pytestmark = pytest.mark.anyio
CAPABLE: dict[str, Any] = {"sampling": {}, "elicitation": {}, "roots": {}}


def model(name: str) -> Any:
    """A client's own model: it signs what it says, and keeps what it was asked."""
    asked: list[str] = []

    async def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
        prompt = params["messages"][0]["content"]["text"]
        asked.append(prompt)
        return {"role": "assistant", "content": {"type": "text", "text": f"{name}: {prompt}"}, "model": name}

    return answer, asked


@pytest.mark.parametrize(
    ("http", "sessions"),
    [(False, "auto"), (False, "per-client"), (True, "auto")],
    ids=["stdio-auto", "stdio-per-client", "http-auto"],
)
@pytest.mark.parametrize("route", ["fixture", ""], ids=["alone", "aggregate"])
async def test_two_clients_at_once_are_each_asked_only_their_own_questions(
    http: bool, sessions: str, route: str
) -> None:
    tool = "ask_after" if route else "fixture__ask_after"
    settings = config({"fixture": server(http=http, sessions=sessions)})
    async with gateway(settings) as running:
        url = running.url(route)
        async with legacy(url, capabilities=CAPABLE) as alice, legacy(url, capabilities=CAPABLE) as bob:
            alice.answer, asked_alice = model("alice")
            bob.answer, asked_bob = model("bob")

            async def rounds(client: Legacy, name: str) -> list[str]:
                calls = [{"prompt": f"{name} {number}", "seconds": 0.05 * (number % 2)} for number in range(4)]
                return await asyncio.gather(*(client.text(tool, call) for call in calls))

            said = await asyncio.gather(rounds(alice, "a"), rounds(bob, "b"))
    assert said[0] == [f"LLM response: alice: a {number}" for number in range(4)]
    assert said[1] == [f"LLM response: bob: b {number}" for number in range(4)]
    assert sorted(asked_alice) == [f"a {number}" for number in range(4)]
    assert sorted(asked_bob) == [f"b {number}" for number in range(4)]


@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
async def test_log_lines_of_two_clients_at_once_do_not_mix(http: bool) -> None:
    async with gateway(config({"fixture": server(http=http)})) as running:
        url = running.url("fixture")
        async with legacy(url) as alice, legacy(url) as bob:
            await asyncio.gather(
                *(
                    client.text("log_after", {"line": f"{name} {number}", "seconds": 0.05})
                    for name, client in (("a", alice), ("b", bob))
                    for number in range(3)
                )
            )
    assert sorted(note["params"]["data"] for note in alice.seen) == ["a 0", "a 1", "a 2"]
    assert sorted(note["params"]["data"] for note in bob.seen) == ["b 0", "b 1", "b 2"]


async def test_a_shared_pipe_answers_a_question_only_while_one_call_is_in_flight() -> None:
    async with gateway(config({"fixture": server(sessions="shared")})) as running:
        url = running.url("fixture")
        async with legacy(url, capabilities=CAPABLE) as alice, legacy(url, capabilities=CAPABLE) as bob:
            alice.answer, asked_alice = model("alice")
            bob.answer, asked_bob = model("bob")
            assert await alice.text("ask_after", {"prompt": "alone"}) == "LLM response: alice: alone"
            waiting = asyncio.ensure_future(bob.call("wait", {"seconds": 1.0}))
            await eventually(lambda: running.endpoint.inflight.count() > 0)
            refused = await alice.call("ask_after", {"prompt": "not alone"})
            assert (await waiting)["result"]["content"][0]["text"] == "waited"
        assert "error" in refused or refused["result"].get("isError") is True
        assert asked_alice == ["alone"]
        assert asked_bob == []
        assert any(getattr(event, "code", "") == "unattributed" for event in running.events)
        assert running.supervisor.started == [("fixture", "")]


async def test_a_question_of_a_call_that_was_given_up_reaches_nobody() -> None:
    settings = config({"fixture": server(sessions="shared", call_timeout_s=0.3)})
    async with gateway(settings) as running:
        url = running.url("fixture")
        async with legacy(url, capabilities=CAPABLE) as alice, legacy(url, capabilities=CAPABLE) as bob:
            bob.answer, asked_bob = model("bob")
            late = await alice.call("stubborn", {"prompt": "alice's secret", "seconds": 0.8})
            assert late["error"]["code"] == -32001
            running.endpoint.apply(config({"fixture": server(sessions="shared", call_timeout_s=5)}))
            assert await bob.text("wait", {"seconds": 1.5}) == "waited"
            assert asked_bob == []
            assert bob.seen == []


@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
async def test_a_backend_process_is_kept_for_one_session_and_released_with_it(http: bool) -> None:
    async with gateway(config({"fixture": server(http=http, sessions="per-client")})) as running:
        url = running.url("fixture")
        async with legacy(url) as alice, legacy(url) as bob:
            first, second = await alice.text("pid"), await bob.text("pid")
            assert await alice.text("pid") == first != second
            response = await alice.http.delete(url, headers=alice.headers)
            assert response.status_code == 200
            async with asyncio.timeout(30):
                await eventually(lambda: running.supervisor.released)
            assert (await alice.post({"jsonrpc": "2.0", "id": 9, "method": "ping"})).status_code == 404
            assert await bob.text("pid") == second


async def test_progress_tokens_of_two_clients_may_be_equal() -> None:
    async with gateway(config({"fixture": server(sessions="shared")})) as running:
        url = running.url("fixture")
        async with legacy(url) as alice, legacy(url) as bob, modern(url) as carol:
            meta = {"_meta": {"progressToken": "same"}}
            said = await asyncio.gather(
                *(client.call("test_tool_with_progress", **meta) for client in (alice, bob)),
                carol.request(
                    "tools/call", {"name": "test_tool_with_progress", "arguments": {}}, {"progressToken": "same"}
                ),
            )
    assert all("result" in message for message in said)
    for client in (alice, bob, carol):
        progress = [note["params"] for note in client.seen if note["method"] == "notifications/progress"]
        assert [(note["progressToken"], note["progress"]) for note in progress] == [
            ("same", 0),
            ("same", 50),
            ("same", 100),
        ]


async def test_a_session_belongs_to_the_principal_that_opened_it() -> None:
    from tests.gateway.mcp.fakes import token_digest

    clients = {name: {"token_sha256": token_digest(name)} for name in ("alice", "bob")}
    async with gateway(config({"fixture": server(http=True)}, clients=clients)) as running:
        url = running.url("fixture")
        async with legacy(url, token="alice") as alice:
            stolen = {**alice.headers, "authorization": "Bearer bob"}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            assert (await alice.http.post(url, json=message, headers=stolen)).status_code == 404
            assert (await alice.http.get(url, headers=stolen)).status_code == 404
            assert (await alice.http.delete(url, headers=stolen)).status_code == 404
            other_route = await alice.http.post(running.url(), json=message, headers=alice.headers)
            assert other_route.status_code == 404
            assert "result" in await alice.request("tools/list")


async def test_news_of_a_task_reach_nobody_but_whose_it_is() -> None:
    clients = {name: {"token_sha256": token_digest(name)} for name in "ab"}
    settings = config({"bad": server(sessions="shared")}, clients=clients)
    faulty = (sys.executable, "-m", "tests.fixture_server.faulty")
    async with gateway(settings, {"bad": faulty}) as running:
        url = running.url("bad")
        async with (
            legacy(url, token="a", capabilities=CAPABLE) as owner,
            legacy(url, token="b", capabilities=CAPABLE) as other,
        ):
            heard: dict[str, list[str]] = {"owner": [], "other": []}

            def listen(client: Legacy, name: str) -> None:
                async def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
                    heard[name].append(method)
                    return {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"}

                client.answer = answer

            listen(owner, "owner")
            listen(other, "other")
            assert "task" in (await owner.call("task", {"task": "t1"}))["result"]
            assert await other.text("task_news", {"task": "t1"}) == "told"
            assert (other.seen, heard["other"]) == ([], [])
            assert await owner.text("task_news", {"task": "t1"}) == "told"
            assert owner.seen[0]["method"] == "notifications/tasks/status"
            assert heard["owner"] == ["sampling/createMessage"]
