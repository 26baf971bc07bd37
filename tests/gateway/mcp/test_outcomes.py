"""What a call's end is decides what happens next; what it says in words does not, since a backend chooses its words."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.mcp.call.messages import MAX_MESSAGE, Call
from gateway.mcp.call.outcome import (
    ErrorKind,
    Failure,
    Origin,
    Result,
    answered,
    broken,
    encode,
    http_status,
    refused,
)
from gateway.mcp.upstream.stdio import StdioPeer
from gateway.mcp.wire.errors import INVALID_PARAMS, RpcError
from gateway.mcp.wire.tasks import Tasks
from tests.attack.scripted import GREETING, script
from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, gateway, server

pytestmark = pytest.mark.anyio
FAULTY_HTTP = (sys.executable, "-m", "tests.fixture_server.faulty_http")
OURS = (
    "Server bad: the session is gone",
    "Server bad: it refused our credentials",
    "Server : the session is gone",
    "Server bad: its session ended before it answered",
    "Server bad answered HTTP 401",
    "Request cancelled",
    "Session not found",
    "Bad Request: No valid session ID provided",
    "unknown session",
    'the session is gone","result":{}',
)
TOOLS = {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}


def runs(running: Gateway, method: str) -> int:
    lines = [line for process in running.supervisor.instances.values() for line in process.errors]
    return sum(json.loads(line.removeprefix("asked "))[0] == method for line in lines if line.startswith("asked "))


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_call_whose_backend_answers_any_error_text_runs_exactly_once(connect: Any, tmp_path: Path) -> None:
    command = script(tmp_path, tools_list=TOOLS)
    texts = [*OURS, "", "\0\ud83d"[:1], "日本 🎉", '"}]', *("x" * size + OURS[0] for size in (1, 4000))]
    async with gateway(config({"bad": server()}), {"bad": command}) as running, connect(running.url("bad")) as client:
        for number, text in enumerate(texts, 1):
            for code in (-32603, -32000):
                error = json.dumps({"code": code, "message": text})
                script(tmp_path, "next", tools_list=TOOLS, tools_call=f'"error": {error}')
                os.replace(tmp_path / "next.json", tmp_path / "script.json")  # it is read for every line
                before = runs(running, "tools/call")
                said = await client.call("do")
                assert said["error"] == {"code": code, "message": text}
                assert runs(running, "tools/call") == before + 1, (number, text)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("text", [OURS[0], OURS[1], "unknown session"])
async def test_over_http_too_whatever_the_status_of_the_answer_is(text: str, status: int) -> None:
    body = json.dumps({"status": status, "error": {"code": -32000, "message": text}})
    command = ("env", f"FAULTY_ERROR={body}", "FAULTY_SESSIONS=No valid session ID provided", *FAULTY_HTTP)
    async with gateway(config({"bad": server(http=True)}), {"bad": command}) as running:
        async with legacy(running.url("bad")) as client:
            assert await client.text("ok") == "ok"
            assert "error" in await client.call("error_answer")
            (process,) = running.supervisor.instances.values()
            assert process.errors.count("ran error_answer") == 1
            assert await client.text("ok") == "ok"


IDS = [
    str(uuid.UUID(int=0)),
    str(uuid.uuid4()),
    "x" * 500,
    0,
    -1,
    2**53,
    10**60,
    '"result"',
    '"error"',
    '{"result":{}}',
    'é"error":日本',
    "",
]


@pytest.mark.parametrize("refuses", [True, False])
async def test_a_refused_subscription_is_never_recorded_whatever_the_request_id_is(
    refuses: bool, tmp_path: Path
) -> None:
    greeting = {**GREETING, "capabilities": {"resources": {"subscribe": True}}}
    said = '"error": {"code": -32603, "message": "result"}' if refuses else '"result": {"error": "no"}'
    command = script(tmp_path, initialize=greeting, resources_subscribe=said)
    async with gateway(config({"one": server()}), {"one": command}) as running, legacy(running.url("one")) as client:
        session = running.endpoint.session(client.headers["mcp-session-id"])
        assert session is not None
        await client.request("resources/subscribe", {"uri": "data://zero"})
        session.subscriptions.clear()
        for number in IDS:
            uri = f"data://{IDS.index(number)}"
            answer = await client.request("resources/subscribe", {"uri": uri}, number)
            assert answer["id"] == number
            assert ("error" in answer) is refuses
            assert (uri in session.subscriptions) is not refuses, number


def test_an_outcome_knows_who_made_it_and_only_the_transport_says_that_a_call_did_not_run() -> None:
    said = {"code": -32000, "message": "Server b: the session is gone"}
    theirs = answered({"id": 1, "error": said})
    assert theirs == Failure(said, ErrorKind.ANSWERED, Origin.BACKEND)
    assert isinstance(theirs, Failure)
    assert not theirs.not_run
    assert broken("b", "the session is gone", ErrorKind.SESSION_GONE).not_run
    assert not broken("b", "the session is gone").not_run
    assert not refused(RpcError(-32000, "the session is gone")).not_run
    assert Failure({"code": "what", "message": 1}, ErrorKind.ANSWERED, Origin.BACKEND).label == "error"
    assert refused(RpcError(INVALID_PARAMS, "no", kind="unknown_tool")).label == "unknown_tool"


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.integers(), st.text(max_size=80), st.sampled_from(IDS)), st.text(max_size=80))
async def test_bytes_are_made_at_the_edge_and_read_the_same(request_id: Any, text: str) -> None:
    failure = refused(RpcError(INVALID_PARAMS, text, {"text": text}))
    assert json.loads(encode(request_id, failure)) == {
        "jsonrpc": "2.0",
        "id": request_id,
        "error": {"code": INVALID_PARAMS, "message": text, "data": {"text": text}},
    }
    assert json.loads(encode(request_id, Result({"text": text})))["result"] == {"text": text}
    assert http_status(failure, modern=True) == 400
    assert http_status(failure, modern=False) == http_status(Result({}), modern=True) == 200


async def test_a_backends_own_error_code_is_not_taken_for_a_timeout_of_ours(tmp_path: Path) -> None:
    modern_only = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
    refusal = '"error": {"code": -32001, "message": "no such session"}'
    command = script(tmp_path, initialize=refusal, server_discover=modern_only, tools_list=TOOLS)
    async with gateway(config({"one": server()}), {"one": command}) as running:
        async with legacy(running.url("one")) as client:
            result = (await client.request("tools/list"))["result"]
            assert [tool["name"] for tool in result["tools"]] == ["do"]


class Silent:
    """A sink and a writer that keep nothing."""

    transport = None

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.mark.parametrize(
    "begin",
    [
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"',
        b'{"method":"sampling/createMessage","params":{"data":"',
        b'{"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {"data": "',
    ],
)
@pytest.mark.parametrize("sound", [True, False])
async def test_a_message_of_the_backends_own_that_cannot_be_read_ends_no_call(begin: bytes, sound: bool) -> None:
    tasks, silent = Tasks(), Silent()
    reader = asyncio.StreamReader()
    peer = StdioPeer(reader, silent, silent, tasks, door="")  # type: ignore[arg-type]
    call = Call("b", "tools/call", {}, None, None)
    call.number = 1
    peer.calls[1] = call
    end = b'"},"jsonrpc":"2.0","id":1}\n' if sound else b'\xff"}}\n'
    reader.feed_data(begin + b"x" * (MAX_MESSAGE if sound else 10) + end)
    reader.feed_data(b'{"jsonrpc":"2.0","id":1,"result":{"fine":true}}\n')
    async with asyncio.timeout(30):
        assert await call.result() == {"fine": True}
    await tasks.close()
