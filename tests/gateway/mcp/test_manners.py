"""What programs send that is not quite as the protocol has it, or that one revision alone has, is answered all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from gateway.mcp.upstream.greeting import capabilities
from gateway.mcp.view.items import mended
from gateway.mcp.view.listing import Kind
from tests.gateway.mcp.clients import ACCEPT, MODERN, Legacy, legacy, messages, modern
from tests.gateway.mcp.fakes import Gateway, config, gateway, server

pytestmark = pytest.mark.anyio
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
JSON, SSE = "application/json", "text/event-stream"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Gateway]:
    settings = config({"fixture": server(http=True)}, gateway={"allowed_origins": ["https://app.example"]})
    async with gateway(settings) as found:
        yield found


@asynccontextmanager
async def session(running: Gateway, version: str = "2025-11-25") -> AsyncIterator[Legacy]:
    """A session of any revision, whose requests need not be sound."""
    greeting = {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        client = Legacy(http, running.url("fixture"), {})
        response = await client.post(greeting)
        assert response.json()["result"]["protocolVersion"] == version
        client.headers["mcp-session-id"] = response.headers["mcp-session-id"]
        yield client


# null

NULLS: list[tuple[str, Any]] = [
    ("ping", None),
    ("tools/list", None),
    ("tools/list", {"cursor": None}),
    ("tools/list", {"cursor": None, "_meta": None}),
    ("tools/list", {"_meta": {"progressToken": None}}),
    ("prompts/list", {"cursor": None}),
    ("resources/list", {"cursor": None}),
    ("resources/templates/list", {"cursor": None}),
    ("tools/call", {"name": "test_simple_text", "arguments": None}),
    ("tools/call", {"name": "test_simple_text", "arguments": {}, "_meta": None, "task": None, "requestState": None}),
    ("tools/call", {"name": "test_simple_text", "_meta": {"progressToken": None}}),
    ("prompts/get", {"name": "test_simple_prompt", "arguments": None}),
    (
        "completion/complete",
        {
            "ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments", "title": None},
            "argument": {"name": "arg1", "value": "x"},
            "context": {"arguments": None},
        },
    ),
    ("logging/setLevel", {"level": "info", "_meta": None}),
]


@pytest.mark.parametrize(("method", "params"), NULLS, ids=str)
async def test_what_is_optional_and_null_counts_as_absent(running: Gateway, method: str, params: Any) -> None:
    async with session(running) as client:
        response = await client.post({"jsonrpc": "2.0", "id": 3, "method": method, "params": params})
        said = messages(response.text, response.headers["content-type"])[-1]
        assert (response.status_code, said["id"], "result" in said) == (200, 3, True), said


async def test_null_is_absent_in_2026_07_28_too(running: Gateway) -> None:
    async with modern(running.url("fixture")) as client:
        nulls = {"io.modelcontextprotocol/logLevel": None, "io.modelcontextprotocol/clientInfo": None}
        said = await client.request("tools/list", {"cursor": None}, {**nulls, "progressToken": None})
        assert "result" in said, said
        assert "result" in await client.call("test_simple_text", None, requestState=None, inputResponses=None)


async def test_a_null_that_a_tool_is_called_with_stays(running: Gateway) -> None:
    async with session(running) as client:
        for sent in ({"value": None}, {"value": [None, {"a": None}], "b": None}):
            message = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {"name": "echo", "arguments": sent},
            }
            said = (await client.post(message)).json()
            assert json.loads(said["result"]["content"][0]["text"]) == sent


async def test_null_in_a_greeting_is_absent(running: Gateway) -> None:
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"sampling": None, "elicitation": None, "experimental": None},
        "clientInfo": {"name": "t", "version": "1", "title": None, "icons": None},
        "_meta": None,
    }
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        client = Legacy(http, running.url("fixture"), {})
        response = await client.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        client.headers["mcp-session-id"] = response.headers["mcp-session-id"]
        await client.post({"jsonrpc": "2.0", "method": "notifications/initialized", "params": None})
        said = await client.call("test_sampling", {"prompt": "x"})
        assert "error" in said or said["result"]["isError"] is True, "a null capability is not one"


async def test_an_answer_with_a_null_error_is_an_answer(running: Gateway) -> None:
    async with legacy(running.url("fixture"), capabilities={"sampling": {}}) as client:

        async def answer(_method: str, _params: Any) -> dict[str, Any]:
            return {"role": "assistant", "content": {"type": "text", "text": "yes"}, "model": "m", "stopReason": None}

        client.answer = answer
        post = client.post

        async def with_null(message: dict[str, Any]) -> httpx2.Response:
            response = await post({**message, "error": None} if "result" in message else message)
            assert response.status_code == 202, response.text
            return response

        client.post = with_null  # type: ignore[method-assign]
        assert "yes" in await client.text("test_sampling", {"prompt": "x"})


@pytest.mark.parametrize(
    ("message", "headers", "status"),
    [
        ({"id": 7, "method": "tools/list", "params": [1]}, {}, 400),
        ({"id": "seven", "method": 5}, {}, 400),
        ({"id": 7, "method": "x" * 600}, {}, 400),
        ({"id": 7}, {}, 400),
        ({"jsonrpc": "1.0", "id": 7, "method": "ping"}, {}, 400),
        ({"id": 7, "method": "ping"}, {"mcp-session-id": "made-up"}, 404),
        ({"id": 7, "method": "ping"}, {}, 400),
        ({"id": 7, "method": "subscriptions/listen", "params": {"_meta": META, "notifications": {}}},
         {"mcp-protocol-version": MODERN, "mcp-method": "subscriptions/listen", "accept": JSON}, 406),
    ],
    ids=str,
)  # fmt: skip
async def test_an_error_has_the_id_of_its_request(
    running: Gateway, message: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        response = await http.post(running.url(), json={"jsonrpc": "2.0", **message}, headers={**ACCEPT, **headers})
        assert (response.status_code, response.json()["id"]) == (status, message["id"]), response.text


# Accept

FORMS: list[tuple[str | None, str | None]] = [
    (None, JSON),
    ("", JSON),
    ("*/*", JSON),
    ("application/json", JSON),
    ("application/*", JSON),
    ("APPLICATION/JSON; q=0.5", JSON),
    ("application/json, text/event-stream;q=0", JSON),
    ("text/html, */*;q=0.1", JSON),
    ("application/json, text/event-stream", SSE),
    ("text/event-stream, application/json;q=0.9", SSE),
    ("application/*, text/*", SSE),
    ("text/event-stream", SSE),
    ("text/event-stream, application/json;q=0, */*", SSE),
    ("text/html", None),
    ("application/json;q=0", None),
    ("*/*;q=0.0", None),
    ("application/xml, image/*", None),
]


@pytest.mark.parametrize(("accept", "form"), FORMS, ids=str)
async def test_the_answer_has_a_form_that_the_client_accepts(
    running: Gateway, accept: str | None, form: str | None
) -> None:
    """The tool reports progress and logs before its result: there is more to say than JSON can."""
    async with session(running) as client:
        del client.headers["accept"]
        params = {"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": "p"}}
        body = json.dumps({"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": params})
        request = client.http.build_request("POST", client.url, content=body, headers=client.headers)
        request.headers["content-type"] = JSON
        del request.headers["accept"]
        if accept is not None:
            request.headers["accept"] = accept
        response = await client.http.send(request)
        if form is None:
            assert response.status_code == 406
            return
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == form
        said = messages(response.text, form)
        assert said[-1]["id"] == 4
        assert "result" in said[-1]
        assert (len(said) > 1) is (form == SSE)


async def test_a_client_of_streams_alone_gets_its_greeting_as_one(running: Gateway) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        response = await http.post(running.url(), json=message, headers={"accept": SSE})
        assert (response.headers["content-type"], bool(response.headers["mcp-session-id"])) == (SSE, True)
        assert messages(response.text, SSE)[-1]["result"]["protocolVersion"] == "2025-11-25"


async def test_a_client_of_json_alone_is_asked_on_its_sessions_stream(running: Gateway) -> None:
    async with legacy(running.url("fixture"), capabilities={"sampling": {}}) as client:
        async with client.http.stream("GET", client.url, headers=client.headers) as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == ": open"
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
            message["params"] = {"name": "test_sampling", "arguments": {"prompt": "x"}}
            headers = {**client.headers, "accept": JSON}
            calling = asyncio.ensure_future(client.http.post(client.url, json=message, headers=headers))
            async with asyncio.timeout(30):
                while not (line := await anext(lines)).startswith("data:"):
                    pass
                result = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "heard"}}
                await client.post({"jsonrpc": "2.0", "id": json.loads(line[5:])["id"], "result": result})
                response = await calling
        assert "heard" in response.json()["result"]["content"][0]["text"]


# batches


def called(number: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


async def test_a_batch_of_2025_03_26_is_answered(running: Gateway) -> None:
    async with session(running, "2025-03-26") as client:
        batch = [
            {"jsonrpc": "2.0", "id": 1, "method": "ping"},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            called("two", "test_simple_text"),
            {"jsonrpc": "2.0", "id": "stockade-99", "result": {}},
            {"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": None},
            {"jsonrpc": "2.0", "id": 4, "method": "initialize", "params": {}},
            {"jsonrpc": "2.0", "id": 5, "method": "made/up"},
            {"jsonrpc": "2.0", "id": 6, "method": "ping", "params": [1]},
            17,
        ]
        response = await client.http.post(client.url, json=batch, headers=client.headers)
        assert (response.status_code, response.headers["content-type"]) == (200, JSON), response.text
        said = response.json()
        assert [one["id"] for one in said] == [1, "two", 3, 4, 5, 6, None]
        assert ["result" in one for one in said] == [True, True, True, False, False, False, False]
        quiet = [{"jsonrpc": "2.0", "method": "notifications/initialized"}]
        response = await client.http.post(client.url, json=quiet, headers=client.headers)
        assert (response.status_code, response.content) == (202, b"")


async def test_a_batch_whose_calls_say_more_is_a_stream(running: Gateway) -> None:
    async with session(running, "2025-03-26") as client:
        talking = called(1, "test_tool_with_progress")
        talking["params"]["_meta"] = {"progressToken": "p"}
        batch = [talking, called(2, "test_simple_text")]
        response = await client.http.post(client.url, json=batch, headers=client.headers)
        said = messages(response.text, response.headers["content-type"])
        assert response.headers["content-type"] == SSE
        assert [one["id"] for one in said if "result" in one] == [1, 2]
        assert any(one.get("method") == "notifications/progress" for one in said)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25"])
async def test_other_revisions_have_no_batches(running: Gateway, version: str) -> None:
    async with session(running, version) as client:
        batch = [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]
        response = await client.http.post(client.url, json=batch, headers=client.headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)
        assert "2025-03-26" in response.json()["error"]["message"]


@pytest.mark.parametrize(("count", "status"), [(0, 400), (100, 200), (101, 413)])
async def test_a_batch_has_a_size(running: Gateway, count: int, status: int) -> None:
    async with session(running, "2025-03-26") as client:
        batch = [{"jsonrpc": "2.0", "id": number, "method": "ping"} for number in range(count)]
        response = await client.http.post(client.url, json=batch, headers=client.headers)
        assert response.status_code == status


# the session's stream


async def test_the_newest_stream_of_a_session_takes_the_place_of_the_one_before(running: Gateway) -> None:
    async with legacy(running.url("fixture")) as client, httpx2.AsyncClient(trust_env=False, timeout=60) as other:
        async with client.http.stream("GET", client.url, headers=client.headers) as first:
            for _ in range(3):
                async with other.stream("GET", client.url, headers=client.headers) as newest:
                    assert (newest.status_code, newest.headers["content-type"]) == (200, SSE)
                    lines = newest.aiter_lines()
                    async with asyncio.timeout(30):
                        assert await anext(lines) == ": open"
                        await first.aread()  # raises if it does not end as it should
                        running.endpoint.apply(
                            running.endpoint._config
                        )  # every client learns that lists may have changed
                        while "list_changed" not in await anext(lines):
                            pass
        assert "result" in await client.request("ping")


# paths


@pytest.mark.parametrize("path", ["/mcp/", "/servers/fixture/mcp/"])
async def test_a_slash_at_the_end_of_the_path_changes_nothing(running: Gateway, path: str) -> None:
    url = f"http://127.0.0.1:{running.port}{path}"
    async with legacy(url) as client:
        await client.settled()
        assert "result" in await client.request("tools/list")
        plain = httpx2.URL(url.rstrip("/"))
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:  # it is the same session
            message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            assert "result" in (await http.post(plain, json=message, headers=client.headers)).json()
        assert (await client.http.delete(url, headers=client.headers)).status_code == 200
    async with modern(url) as newer:
        assert "result" in await newer.request("tools/list")


# other origins


@pytest.mark.parametrize(
    "path", ["/mcp", "/mcp/", "/servers/fixture/mcp", "/.well-known/oauth-protected-resource/mcp"]
)
@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:6274"])
async def test_a_page_of_an_accepted_origin_may_ask(running: Gateway, origin: str, path: str) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        response = await http.options(
            f"http://127.0.0.1:{running.port}{path}",
            headers={
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type, mcp-protocol-version, mcp-param-region, x-own, mcp-a b",
                "access-control-request-private-network": "true",
            },
        )
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == origin
    assert {"GET", "POST", "DELETE"} <= set(response.headers["access-control-allow-methods"].split(", "))
    named = set(response.headers["access-control-allow-headers"].split(", "))
    assert {"content-type", "accept", "authorization", "last-event-id", "mcp-session-id", "mcp-protocol-version",
            "mcp-method", "mcp-name", "mcp-param-region"} == named  # fmt: skip
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers["vary"] == "origin"


async def test_a_page_may_read_its_session_and_its_errors(running: Gateway) -> None:
    origin = "https://app.example"
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        response = await http.post(running.url(), json=message, headers={**ACCEPT, "origin": origin})
        assert "Mcp-Session-Id" in response.headers["access-control-expose-headers"]
        refused = await http.post(running.url(), json=message, headers={"accept": "x/y", "origin": origin})
        wrong = {**ACCEPT, "origin": origin, "authorization": "Bearer wrong"}
        unknown = await http.post(running.url(), json=message, headers=wrong)
        assert (refused.status_code, unknown.status_code) == (406, 401)
        for one in (response, refused, unknown):
            assert one.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil.example", "file://"])
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_a_page_of_another_origin_is_refused(running: Gateway, method: str, origin: str) -> None:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        response = await http.request(method, running.url(), headers=headers)
    assert response.status_code == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


# names


async def test_a_tools_name_has_room_for_what_clients_put_before_it() -> None:
    prefix = "mcp__stockade__"
    names = ["a-server-with-a-very-long-name", "fixture"]
    async with gateway(config({name: server(http=True) for name in names})) as found, legacy(found.url()) as client:
        for tool in (await client.settled())["tools"]:
            assert len(prefix + tool["name"]) <= 64
        long = next(
            tool["name"] for tool in (await client.settled())["tools"] if len(tool["name"]) == 64 - len(prefix)
        )
        assert "Unknown tool" not in json.dumps(await client.call(long))


# what servers define


@pytest.mark.parametrize("schema", [[], {"type": "object", "properties": []}, {"type": "object", "properties": None}])
def test_an_empty_array_where_an_object_belongs_is_an_empty_object(schema: Any) -> None:
    """PHP cannot tell them apart: a tool without parameters has `"properties": []`."""
    fit, changed = mended(Kind.TOOLS, {"name": "t", "inputSchema": schema})
    assert (fit, changed) == ({"name": "t", "inputSchema": {"type": "object"}}, ["inputSchema"])
    assert capabilities({"tools": [], "logging": []}) == {"tools": {}, "logging": {}}
