"""Two clients, two views: the same for every list and every call, on every route, also while both are busy."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.mcp.view.annotate import denial_line
from observability.events import Certainty, Decision, EgressEvent, Phase, Reason, ToolChange, ToolEvent
from tests.gateway.mcp.clients import Legacy, Modern, legacy, messages, modern
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server, token_digest

pytestmark = pytest.mark.anyio
CLIENTS: dict[str, Any] = {
    "alice": {"token_sha256": token_digest("alice"), "tools": {"allow": ["one__*"], "deny": ["*error*"]}},
    "bob": {
        "token_sha256": token_digest("bob"),
        "servers": ["two"],
        "prompts": {"deny": ["*image*"]},
        "resources": {"allow": ["test://static-*"]},
    },
}
SHAPED = {
    "rename": {"test_simple_text": "hello"},
    "describe": {"echo": "Says it again"},
    "fixed": {"echo": {"who": "stockade"}},
    "defaults": {"echo": {"value": 5}},
    "deny": ["crash"],
}


@asynccontextmanager
async def two() -> AsyncIterator[Gateway]:
    servers = {"one": server(http=True), "two": server(http=True, tools=SHAPED)}
    async with gateway(config(servers, clients=CLIENTS)) as running:
        yield running


async def names(client: Legacy | Modern, method: str = "tools/list", key: str = "tools") -> set[str]:
    await client.settled()
    result = (await client.request(method))["result"]
    return {item.get("name") if key != "resources" else item["uri"] for item in result[key]}


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_each_client_sees_and_calls_its_own_tools_on_every_route(connect: Any) -> None:
    async with two() as running:
        async with connect(running.url(), token="alice") as alice, connect(running.url(), token="bob") as bob:
            seen_alice, seen_bob = await asyncio.gather(names(alice), names(bob))
            assert all(name.startswith("one__") and "error" not in name for name in seen_alice)
            assert all(name.startswith("two__") for name in seen_bob)
            assert "two__hello" in seen_bob
            assert not {"two__test_simple_text", "two__crash"} & seen_bob

            async def busy(client: Any, allowed: str, forbidden: list[str]) -> None:
                for _ in range(10):
                    assert "result" in await client.call(allowed)
                    for name in forbidden:
                        said = await client.call(name)
                        assert said["error"] == {"code": -32602, "message": f"Unknown tool: {name}"}, said

            await asyncio.gather(
                busy(
                    alice, "one__echo", ["one__test_error_handling", "two__echo", "two__hello", "test_error_handling"]
                ),
                busy(bob, "two__hello", ["one__echo", "two__crash", "two__test_simple_text", "crash", "echo_"]),
            )
        assert {call["tool"] for call in running.meters.calls} <= {"", "echo", "test_simple_text"}
        filtered = [event for event in running.events if isinstance(event, ToolEvent)]
        assert {(event.client, event.backend, event.tool) for event in filtered} >= {
            ("alice", "one", "test_error_handling"),
            ("bob", "two", "crash"),
        }
        assert all(event.change is ToolChange.FILTERED for event in filtered)
        async with connect(running.url("one"), token="alice") as alice:
            assert "test_error_handling" not in await names(alice)
            assert "error" in await alice.call("test_error_handling")
            assert "result" in await alice.call("test_simple_text")


async def test_a_server_that_a_client_may_not_see_is_not_there() -> None:
    async with two() as running, modern(running.url("one"), token="bob") as bob:
        message = bob.message("tools/list")
        response = await bob.http.post(bob.url, json=message, headers=bob.routing(message))
        assert response.status_code == 404


async def test_prompts_resources_and_completions_have_the_same_view() -> None:
    async with two() as running, legacy(running.url(), token="bob") as bob:
        assert "two__test_prompt_with_image" not in await names(bob, "prompts/list", "prompts")
        assert "error" in await bob.request("prompts/get", {"name": "two__test_prompt_with_image"})
        assert "result" in await bob.request("prompts/get", {"name": "two__test_simple_prompt"})
        assert await names(bob, "resources/list", "resources") == {"test://static-text", "test://static-binary"}
        assert "result" in await bob.request("resources/read", {"uri": "test://static-text"})
        for method in ("resources/read", "resources/subscribe"):
            assert (await bob.request(method, {"uri": "test://watched-resource"}))["error"]["code"] == -32002
        argument = {"argument": {"name": "arg1", "value": "par"}}
        ref = {"type": "ref/prompt", "name": "two__test_prompt_with_arguments"}
        said = await bob.request("completion/complete", {"ref": ref, **argument})
        assert said["result"]["completion"]["values"] == ["paris", "park", "party"]
        ref = {"type": "ref/prompt", "name": "two__test_prompt_with_image"}
        assert "error" in await bob.request("completion/complete", {"ref": ref, **argument})
        ref = {"type": "ref/resource", "uri": "test://template/{id}/data"}
        assert "error" in await bob.request("completion/complete", {"ref": ref, **argument})


async def test_a_shaped_tool_is_shown_and_called_as_it_is_shaped() -> None:
    async with two() as running, modern(running.url("two"), token="bob") as bob:
        tools = {tool["name"]: tool for tool in (await bob.request("tools/list"))["result"]["tools"]}
        assert tools["echo"]["description"] == "Says it again"
        assert await bob.text("echo", {"who": "me"}) == '{"value": 5, "who": "stockade"}'
        assert await bob.text("echo", {"value": 1}) == '{"value": 1, "who": "stockade"}'
        assert (await bob.request("tools/list"))["result"]["cacheScope"] == "private"


async def test_a_new_configuration_changes_the_views_at_once_and_keeps_the_connections() -> None:
    async with two() as running, legacy(running.url(), token="alice") as alice:
        await alice.settled()
        assert "result" in await alice.call("one__echo")
        before = list(running.supervisor.started)
        clients = {**CLIENTS, "alice": {**CLIENTS["alice"], "tools": {"deny": ["*echo*"]}}}
        servers = {"one": server(http=True), "two": server(http=True, tools=SHAPED)}
        running.endpoint.apply(config(servers, clients=clients))
        assert "error" in await alice.call("one__echo")
        assert "result" in await alice.call("two__hello")
        assert running.supervisor.started == before
        running.endpoint.apply(config(servers, clients={"bob": CLIENTS["bob"]}))
        assert (await alice.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status_code == 401


WATCHED = "test://watched-resource"


@asynccontextmanager
async def watching(client: Legacy | Modern, *resources: str) -> AsyncIterator[asyncio.Queue[str]]:
    """The methods of what comes on a stream that the client keeps open; `end` when it ends."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    if isinstance(client, Modern):
        wanted = {"resourceSubscriptions": list(resources), "toolsListChanged": True}
        message = client.message("subscriptions/listen", {"notifications": wanted})
        stream = client.http.stream("POST", client.url, json=message, headers=client.routing(message))
    else:
        for uri in resources:
            await client.request("resources/subscribe", {"uri": uri})
        stream = client.http.stream("GET", client.url, headers=client.headers)

    async def read() -> None:
        async with stream as response:
            async for line in response.aiter_lines():
                if line.startswith(":"):
                    heard.put_nowait("open")
                for said in messages(line, "text/event-stream"):
                    heard.put_nowait(said.get("method", "end"))
        heard.put_nowait("end")

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read())
        async with asyncio.timeout(30):
            while await heard.get() not in ("open", "notifications/subscriptions/acknowledged"):
                pass
        yield heard
        reading.cancel()


async def until_heard(heard: asyncio.Queue[str], wanted: str) -> list[str]:
    """What came up to and without `wanted`."""
    found: list[str] = []
    async with asyncio.timeout(30):
        while (method := await heard.get()) != wanted:
            found.append(method)
    return found


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_an_open_stream_tells_nothing_that_its_client_may_not_see_any_more(connect: Any) -> None:
    servers = {"one": server(http=True)}
    narrow = {"alice": {"token_sha256": token_digest("alice"), "resources": {"deny": ["*watched*"]}}}
    wide = {"alice": {"token_sha256": token_digest("alice")}}
    async with gateway(config(servers, clients=wide)) as running:
        async with connect(running.url(), token="alice") as client, connect(running.url(), token="alice") as other:
            doer = client if isinstance(client, Legacy) else other
            await doer.request("resources/list")
            async with watching(client, WATCHED) as heard:
                await doer.call("one__touch")
                await until_heard(heard, "notifications/resources/updated")
                running.endpoint.apply(config(servers, clients=narrow))
                await until_heard(heard, "notifications/tools/list_changed")
                await doer.call("one__touch")
                await doer.call("one__test_trigger_tool_change")
                assert "notifications/resources/updated" not in await until_heard(
                    heard, "notifications/tools/list_changed"
                )


@pytest.mark.parametrize("connect", [legacy, modern])
@pytest.mark.parametrize("change", ["removed", "another token", "another server"])
async def test_an_open_stream_ends_with_the_right_to_it(connect: Any, change: str) -> None:
    servers = {"one": server(http=True)}
    clients = {"alice": {"token_sha256": token_digest("alice")}, "bob": {"token_sha256": token_digest("bob")}}
    async with gateway(config(servers, clients=clients)) as running:
        async with connect(running.url("one"), token="alice") as client:
            await client.settled()
            async with watching(client, WATCHED) as heard:
                entry = {"token_sha256": token_digest("new")} if change == "another token" else clients["alice"]
                entry = {**entry, "servers": []} if change == "another server" else entry
                left = {"bob": clients["bob"], **({} if change == "removed" else {"alice": entry})}
                running.endpoint.apply(config(servers, clients=left))
                await until_heard(heard, "end")


async def test_search_mode_shows_two_tools_and_finds_the_rest_under_the_same_filters() -> None:
    clients = {
        "alice": {
            "token_sha256": token_digest("alice"),
            "tools": {"mode": "search", "pinned": ["one__echo"], "deny": ["*error*"]},
        }
    }
    async with gateway(config({"one": server(http=True)}, clients=clients)) as running:
        async with modern(running.url(), token="alice") as alice:
            assert await names(alice) == {"find_tool", "call_tool", "one__echo"}
            found = (await alice.call("find_tool", {"query": "image content", "limit": 3}))["result"]
            tools = found["structuredContent"]["tools"]
            assert tools[0]["name"] == "one__test_image_content"
            assert "inputSchema" in tools[0]
            hidden = (await alice.call("find_tool", {"query": "error handling"}))["result"]["structuredContent"]
            assert "one__test_error_handling" not in {tool["name"] for tool in hidden["tools"]}
            said = await alice.call("call_tool", {"name": "one__echo", "arguments": {"value": 1}})
            assert said["result"]["content"][0]["text"] == '{"value": 1}'
            assert "error" in await alice.call("call_tool", {"name": "one__test_error_handling"})
            assert "error" in await alice.call("find_tool", {"query": " "})


def denial(host: str, when: float, backend: str = "one", connection: int = 1) -> EgressEvent:
    return EgressEvent(
        seq=connection,
        epoch="e",
        phase=Phase.DECIDED,
        time=when,
        connection=connection,
        backend=backend,
        host=host,
        port=443,
        rule_port=443,
        decision=Decision.DENY,
        reason=Reason.HOST_NOT_ALLOWED,
    )


def test_the_advice_names_the_port_where_the_policy_does_not() -> None:
    other = replace(denial("evil.example", 0), port=80, rule_port=None)
    assert denial_line(other, Certainty.CERTAIN).endswith("ask the user to allow evil.example:80 (server one).")


@pytest.mark.parametrize("annotated", [True, False])
async def test_the_caller_is_told_what_the_wall_stopped(annotated: bool) -> None:

    settings = config({"one": server(http=True)}, gateway={"annotate_denials": annotated})
    async with gateway(settings) as running, legacy(running.url("one")) as client:
        endpoint, fence = running.endpoint, running.barrier
        fence.on_settle = lambda: endpoint.inflight.note_denial(denial("evil.example", time.time()))
        await client.text("test_simple_text")
        fence.waiting = True
        result = (await client.call("test_error_handling"))["result"]
        assert fence.settled == 1
        if not annotated:
            assert "_meta" not in result
            assert len(result["content"]) == 1
            return
        (told,) = result["_meta"]["stockade/egress"]
        assert (told["host"], told["port"], told["reason"]) == ("evil.example", 443, "host_not_allowed")
        assert told["certainty"] == "certain"
        assert result["content"][-1]["text"] == (
            "Stockade blocked evil.example:443 (host_not_allowed). "
            "If the task needs it, ask the user to allow evil.example (server one)."
        )
        assert running.calls()[-1].denied == ("evil.example:443 (host_not_allowed)",)
        fence.waiting = True
        fine = (await client.call("test_simple_text"))["result"]
        assert len(fine["content"]) == 1
        assert fine["_meta"]["stockade/egress"]


async def test_a_result_without_an_error_tells_once_of_a_host_that_the_call_was_refused() -> None:
    """mcp-atlassian answers `[]`, and the model would believe it."""
    async with gateway(config({"one": server(http=True)})) as running, legacy(running.url("one")) as client:
        endpoint, fence = running.endpoint, running.barrier
        await client.text("test_simple_text")
        numbers = itertools.count(1)

        async def texts(of: Any, *hosts: str) -> list[str]:
            def deny() -> None:
                for host in hosts:
                    endpoint.inflight.attribute(denial(host, time.time(), connection=next(numbers)))

            fence.on_settle, fence.waiting = deny, True
            result = (await of.call("test_simple_text"))["result"]
            assert len(result["_meta"]["stockade/egress"]) == len(hosts)
            return [item["text"] for item in result["content"]][1:]

        (told,) = await texts(client, "evil.example")
        assert told.splitlines() == [
            "This result may be incomplete, although the tool reports no error.",
            "Stockade blocked evil.example:443 (host_not_allowed). "
            "If the task needs it, ask the user to allow evil.example (server one).",
        ]
        assert await texts(client, "evil.example") == [], "once for each host"
        (other,) = await texts(client, "evil.example", "worse.example")
        assert "worse.example" in other
        assert "evil.example" not in other
        async with legacy(running.url("one")) as another:
            assert len(await texts(another, "evil.example")) == 1, "and session"
        endpoint.inflight.attribute(denial("telemetry.example", time.time() - 100))
        assert await texts(client, "telemetry.example") == [], "refused outside of calls too"


async def test_an_error_of_a_server_that_does_not_start_names_what_it_was_refused_meanwhile() -> None:
    """qdrant dies since huggingface.co is refused, and nothing said so."""
    async with gateway(config({"one": server(http=True), "dead": server(http=True)})) as running:
        running.supervisor.refuse["dead"] = "it did not answer initialize within 120 s"
        background = running.endpoint.inflight.background
        now = time.time()
        running.endpoint.inflight.attribute(denial("before.example", now - 100, "dead", 1))
        background.started("dead", now - 50)
        background.started("dead", now - 1)
        for connection in (2, 3):
            running.endpoint.inflight.attribute(denial("models.example", now - 10, "dead", connection))
        asked = "Stockade blocked models.example:443 (host_not_allowed). If the task needs it, ask the user"
        with pytest.raises(AssertionError, match=re.escape(asked)):
            async with legacy(running.url("dead")):  # its `initialize`
                pass
        async with modern(running.url("dead")) as client:
            for method, params in (("tools/list", {}), ("tools/call", {"name": "x", "arguments": {}})):
                for _ in range(2):
                    said = (await client.request(method, params))["error"]["message"]
                    assert said.count(asked) == 1, (method, said)
                    assert "before.example" not in said
        async with legacy(running.url()) as client:
            listed = (await client.request("tools/list", {}))["result"]
            (missing,) = listed["_meta"]["stockade/unavailable"]
            assert asked in missing["reason"]


async def test_a_denial_while_two_calls_were_in_flight_is_only_probably_theirs() -> None:

    async with gateway(config({"one": server(http=True)})) as running, legacy(running.url("one")) as client:
        await client.text("test_simple_text")
        waiting = [asyncio.ensure_future(client.call("wait", {"seconds": 0.3})) for _ in range(2)]
        await eventually(lambda: not (running.endpoint.inflight.count() < 2))
        now = time.time()
        assert len(running.endpoint.inflight.calls_at("one", "", now)) == 2
        assert running.endpoint.inflight.calls_at("two", "", now) == ()
        running.endpoint.inflight.note_denial(denial("evil.example", now))
        for said in await asyncio.gather(*waiting):
            (told,) = said["result"]["_meta"]["stockade/egress"]
            assert told["certainty"] == "probable"
        assert len(running.endpoint.inflight.calls_at("one", "one", now)) == 2


def test_the_line_says_probably_and_names_an_unusual_port() -> None:
    event = denial("db.example", 0.0)
    assert denial_line(event, Certainty.PROBABLE).startswith("Stockade probably blocked db.example:443")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_the_line_does_not_advise_what_no_rule_opens(host: str) -> None:
    event = replace(denial(host, 0.0), reason=Reason.IP_NOT_ALLOWED)
    assert f"allow {host}" not in denial_line(event, Certainty.CERTAIN)


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, True),
        ({"tools": {"describe": {"echo": "Says it again"}}}, True),
        ({"tools": {"deny": ["crash"]}}, False),
        ({"tools": {"fixed": {"echo": {"who": "stockade"}}}}, False),
        ({"prompts": {"allow": []}}, False),
        ({"pin": "strict"}, False),
    ],
)
@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_method_nobody_knows_reaches_only_a_backend_of_which_nothing_is_hidden(
    connect: Any, more: dict[str, Any], asked: bool
) -> None:
    servers = {"one": server(http=True, **more)}
    async with gateway(config(servers)) as running, connect(running.url("one")) as client:
        assert (await client.request("tools/describe", {"name": "crash"}))["error"]["code"] == -32601
        assert running.calls()[-1].error == ("-32601" if asked else "unknown_method")
