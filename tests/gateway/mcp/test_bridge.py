"""Both eras of clients before each era of backend, on a pipe and over HTTP: twelve pairings, all can ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as t
import pytest
from mcp import Client

from tests.gateway.mcp.clients import Modern, legacy, modern
from tests.gateway.mcp.fakes import FIXTURE, Gateway, config, eventually, gateway, server, token_digest

pytestmark = pytest.mark.anyio
ASK = {"prompt": "who?"}


@asynccontextmanager
async def only(era: str, http: bool, **more: Any) -> AsyncIterator[Gateway]:
    command = ("env", f"FIXTURE_ERA={era}", *FIXTURE, *(("--http", "0") if http else ()))
    async with gateway(config({"fixture": server(http=http)}, **more), {"fixture": command}) as running:
        yield running


async def elicited(context: Any, params: Any) -> t.ElicitResult:
    return t.ElicitResult(action="accept", content={"username": "ada", "email": "a@b"})


async def sampled(context: Any, params: Any) -> t.CreateMessageResult:
    text = params.messages[0].content.text
    return t.CreateMessageResult(role="assistant", content=t.TextContent(type="text", text=text.upper()), model="m")


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
@pytest.mark.parametrize("backend_era", ["legacy", "modern"])
@pytest.mark.parametrize("client_era", ["legacy", "auto"])
async def test_each_era_of_client_works_with_each_era_of_backend(
    client_era: str, backend_era: str, http: bool
) -> None:
    async with only(backend_era, http) as running:
        for route, prefix in (("fixture", ""), ("", "fixture__")):
            progress: list[float] = []

            async def on_progress(done: float, total: float | None, message: str | None) -> None:
                progress.append(done)  # noqa: B023  # used before the next round

            mode: Any = client_era
            async with Client(
                running.url(route), mode=mode, elicitation_callback=elicited, sampling_callback=sampled
            ) as client:
                assert client.protocol_version == ("2025-11-25" if client_era == "legacy" else "2026-07-28")
                assert any(tool.name == f"{prefix}echo" for tool in (await client.list_tools()).tools)
                said = await client.call_tool(f"{prefix}echo", {"value": [1, "two"]})
                assert said.content[0].text == '{"value": [1, "two"]}'  # type: ignore[union-attr]
                said = await client.call_tool(f"{prefix}test_sampling", {"prompt": "hello"})
                assert said.content[0].text == "LLM response: HELLO"  # type: ignore[union-attr]
                said = await client.call_tool(f"{prefix}test_elicitation", {"message": "who?"})
                assert '"username": "ada"' in said.content[0].text  # type: ignore[union-attr]
                await client.call_tool(f"{prefix}test_tool_with_progress", {}, progress_callback=on_progress)
                assert progress == [0, 50, 100]
                read = await client.read_resource("test://static-text")
                assert read.contents[0].text.startswith("This is")  # type: ignore[union-attr]
                prompt = await client.get_prompt(f"{prefix}test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
                assert "arg1='a'" in prompt.messages[0].content.text  # type: ignore[union-attr]


async def park(client: Modern) -> dict[str, Any]:
    said = await client.call("ask_after", {"prompt": "who?"})
    result: dict[str, Any] = said["result"]
    assert result["resultType"] == "input_required"
    return result


def answers(result: dict[str, Any]) -> dict[str, Any]:
    reply = {"role": "assistant", "content": {"type": "text", "text": "me"}, "model": "m"}
    return {"inputResponses": dict.fromkeys(result["inputRequests"], reply), "requestState": result["requestState"]}


async def test_a_legacy_backends_question_becomes_input_required_and_the_call_goes_on_after_it() -> None:
    async with (
        only("legacy", False) as running,
        modern(running.url("fixture"), capabilities={"sampling": {}}) as client,
    ):
        result = await park(client)
        (request,) = result["inputRequests"].values()
        assert request["method"] == "sampling/createMessage"
        assert running.endpoint.inflight.count() == 1
        said = await client.call("ask_after", {"prompt": "who?"}, **answers(result))
        assert said["result"]["content"][0]["text"] == "LLM response: me"
        assert said["result"]["resultType"] == "complete"
        assert running.endpoint.inflight.count() == 0


async def test_a_parked_call_answers_to_nobody_else() -> None:
    clients = {name: {"token_sha256": token_digest(name)} for name in ("alice", "bob")}
    async with only("legacy", False, clients=clients) as running:
        url, can = running.url("fixture"), {"sampling": {}}
        async with (
            modern(url, token="alice", capabilities=can) as alice,
            modern(url, token="bob", capabilities=can) as bob,
        ):
            result = await park(alice)
            stolen = await bob.call("ask_after", {"prompt": "who?"}, **answers(result))
            assert stolen["error"]["code"] == -32602
            assert bob.status == 400
            other = await alice.call("test_sampling", {"prompt": "who?"}, **answers(result))
            assert other["error"]["code"] == -32602
            tampered = answers(result)
            tampered["requestState"] = tampered["requestState"][:-4] + "AAAA"
            assert (await alice.call("ask_after", {"prompt": "who?"}, **tampered))["error"]["code"] == -32602
            said = await alice.call("ask_after", {"prompt": "who?"}, **answers(result))
            assert said["result"]["content"][0]["text"] == "LLM response: me"
            again = await alice.call("ask_after", {"prompt": "who?"}, **answers(result))
            assert again["error"]["code"] == -32602


async def test_a_modern_backends_state_is_sealed_for_the_one_who_got_it() -> None:
    clients = {name: {"token_sha256": token_digest(name)} for name in ("alice", "bob")}
    async with only("modern", True, clients=clients) as running:
        url, can = running.url("fixture"), {"elicitation": {}}
        async with (
            modern(url, token="alice", capabilities=can) as alice,
            modern(url, token="bob", capabilities=can) as bob,
        ):
            tool = "test_input_required_result_request_state"
            result = (await alice.call(tool))["result"]
            given = {"inputResponses": {"confirm": {"action": "accept", "content": {"ok": True}}}}
            state = {"requestState": result["requestState"]}
            assert (await bob.call(tool, **given, **state))["error"]["code"] == -32602
            assert (await alice.call(tool, **given, **state))["result"]["content"][0]["text"] == "state-ok"


async def test_parked_calls_have_a_time_limit_and_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mcp.call.parked.PARK_S", 0.3)
    monkeypatch.setattr("gateway.mcp.call.parked.MAX_PER_PRINCIPAL", 1)
    async with (
        only("legacy", True) as running,
        modern(running.url("fixture"), capabilities={"sampling": {}}) as client,
    ):
        result = await park(client)
        refused = await client.call("ask_after", {"prompt": "who?"})
        assert "Too many calls" in refused["error"]["message"]
        async with asyncio.timeout(30):
            await eventually(lambda: not (running.endpoint.inflight.count()))
        late = await client.call("ask_after", {"prompt": "who?"}, **answers(result))
        assert late["error"]["code"] == -32602


async def test_a_client_without_the_capability_is_never_asked() -> None:
    async with only("legacy", False) as running, modern(running.url("fixture")) as client:
        said = await client.call("ask_after", {"prompt": "who?"})
        assert "error" in said or said["result"].get("isError") is True
        assert "input_required" not in str(said)


async def test_a_modern_clients_log_level_reaches_a_legacy_backend() -> None:
    async with only("legacy", True) as running, modern(running.url("fixture")) as client:
        level = {"io.modelcontextprotocol/logLevel": "info"}
        await client.request("tools/call", {"name": "test_logging_tool", "arguments": {}}, level)
        assert [note["method"] for note in client.seen] == ["notifications/message"]
        client.seen.clear()
        await client.request("tools/call", {"name": "test_logging_tool", "arguments": {}})
        assert client.seen == []


@pytest.mark.parametrize("level", ["loud", 5, ["info"]])
async def test_a_log_level_that_does_not_exist_harms_nobody_else(level: Any) -> None:
    made_up = {"io.modelcontextprotocol/logLevel": level}
    call = ("tools/call", {"name": "test_logging_tool", "arguments": {}})
    async with only("legacy", False) as running, modern(running.url("fixture")) as client:
        said = await client.request(*call, made_up)
        assert (client.status, said["error"]["code"]) == (400, -32602)
        said = await client.request(*call, {"io.modelcontextprotocol/logLevel": "info"})
        assert said["result"].get("isError") is not True, said


@pytest.mark.parametrize("end", ["vanish", "cancel"])
@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_question_does_not_outlive_the_call_that_it_was_asked_in(era: str, http: bool, end: str) -> None:
    asked = asyncio.Event()

    async def never(method: str, params: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        await asyncio.Event().wait()
        return {}

    async with only(era, http) as running, legacy(running.url("fixture"), capabilities={"sampling": {}}) as client:
        client.answer = never
        (session,) = running.endpoint._sessions
        call = asyncio.ensure_future(client.request("tools/call", {"name": "test_sampling", "arguments": ASK}, 77))
        async with asyncio.timeout(30):
            await asked.wait()
        assert len(session.asked) == 1
        if end == "cancel":
            await client.notify("notifications/cancelled", {"requestId": 77})
        else:
            call.cancel()
        await eventually(lambda: not session.asked)
        await eventually(lambda: running.endpoint.inflight.count() == 0)
        call.cancel()
