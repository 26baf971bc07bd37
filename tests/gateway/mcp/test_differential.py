"""The same requests to the SDK's own server and through the gateway to the same server: the same answers.

Compared are the HTTP status, the headers that matter, and the messages (but for ids and the texts of errors). So
there is one path in the product, and the SDK's checks are the oracle for ours.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.fixture_server.server import asgi
from tests.gateway.mcp.clients import ACCEPT, MODERN, messages
from tests.gateway.mcp.fakes import config, gateway, server, serving

VERSION, CAPABILITIES = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"
META = {VERSION: MODERN, CAPABILITIES: {"sampling": {}, "elicitation": {}}}
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*deprecated.*")]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Both:
    direct: str
    via: str


@pytest.fixture(scope="module")
async def both() -> AsyncIterator[Both]:
    """The fixture served by the SDK in a process of its own, alone and behind the gateway."""
    async with gateway(config({"fixture": server(http=True)})) as running:
        instance = await running.supervisor.instance("fixture")
        yield Both(f"http://127.0.0.1:{instance.port}/mcp", running.url("fixture"))


def call(method: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META, **(params or {})}, **more}


def routed(method: str, name: str | None = None, **more: str) -> dict[str, str]:
    headers = {"mcp-protocol-version": MODERN, "mcp-method": method, **({"mcp-name": name} if name else {})}
    return {**headers, **{key.replace("_", "-"): value for key, value in more.items()}}


def tool(name: str, arguments: dict[str, Any] | None = None, **more: Any) -> tuple[Any, dict[str, str]]:
    return call("tools/call", {"name": name, "arguments": arguments or {}, **more}), routed("tools/call", name)


MODERN_CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "discover": (call("server/discover"), routed("server/discover")),
    "tools": (call("tools/list"), routed("tools/list")),
    "prompts": (call("prompts/list"), routed("prompts/list")),
    "resources": (call("resources/list"), routed("resources/list")),
    "templates": (call("resources/templates/list"), routed("resources/templates/list")),
    "call": tool("test_simple_text"),
    "call with a progress token that is not used": tool("echo", {"a": 1}, _meta={**META, "progressToken": 5}),
    "call with progress": tool("test_tool_with_progress", _meta={**META, "progressToken": "p"}),
    "call of an image": tool("test_image_content"),
    "call with an error": tool("test_error_handling"),
    "unknown tool": tool("no_such_tool"),
    "capability is missing": tool("test_missing_capability", _meta={**META, CAPABILITIES: {}}),
    "log level": tool("test_logging_tool", _meta={**META, "io.modelcontextprotocol/logLevel": "info"}),
    "read": (call("resources/read", {"uri": "test://static-text"}), routed("resources/read", "test://static-text")),
    "read nothing": (call("resources/read", {"uri": "test://no"}), routed("resources/read", "test://no")),
    "prompt": (call("prompts/get", {"name": "test_simple_prompt"}), routed("prompts/get", "test_simple_prompt")),
    "complete": (
        call(
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"},
                "argument": {"name": "arg1", "value": "p"},
            },
        ),
        routed("completion/complete"),
    ),
    "input required": tool("test_input_required_result_elicitation"),
    "wrong input": tool("test_input_required_result_elicitation", inputResponses={"x": {"action": "cancel"}}),
    "region": (
        tool("test_custom_headers", {"region": "eu"})[0],
        routed("tools/call", "test_custom_headers", mcp_param_region="eu"),
    ),
    "wrong region": (
        tool("test_custom_headers", {"region": "eu"})[0],
        routed("tools/call", "test_custom_headers", mcp_param_region="us"),
    ),
    "missing region": tool("test_custom_headers", {"region": "eu"}),
    "unknown method": (call("no/such"), routed("no/such")),
    "ping is gone": (call("ping"), routed("ping")),
    "initialize is gone": (call("initialize"), routed("initialize")),
    "no meta": ({**call("tools/list"), "params": {}}, routed("tools/list")),
    "no params": ({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, routed("tools/list")),
    "half a meta": (call("tools/list", {"_meta": {VERSION: MODERN}}), routed("tools/list")),
    "unknown version": (
        call("tools/list", {"_meta": {**META, VERSION: "2099-01-01"}}),
        {**routed("tools/list"), "mcp-protocol-version": "2099-01-01"},
    ),
    "versions differ": (call("tools/list"), {**routed("tools/list"), "mcp-protocol-version": "2099-01-01"}),
    "version is no text": (call("tools/list", {"_meta": {**META, VERSION: 5}}), routed("tools/list")),
    "method differs": (call("tools/list"), routed("prompts/list")),
    "no method header": (call("tools/list"), {"mcp-protocol-version": MODERN}),
    "name differs": (tool("echo")[0], routed("tools/call", "other")),
    "no name header": (tool("echo")[0], routed("tools/call")),
    "name in base64": (tool("echo")[0], routed("tools/call", "=?base64?ZWNobw==?=")),
    "bad base64": (tool("echo")[0], routed("tools/call", "=?base64?ZWNobw=?=")),
    "notification": ({"jsonrpc": "2.0", "method": "notifications/initialized"}, {"mcp-protocol-version": MODERN}),
    "notification of an unknown version": (
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"mcp-protocol-version": "2099-01-01"},
    ),
    "batch": ([call("tools/list")], routed("tools/list")),
    "response": ({"jsonrpc": "2.0", "id": 1, "result": {}}, routed("tools/list")),
    "id is null": (call("tools/list", id=None), routed("tools/list")),
    "id is a fraction": (call("tools/list", id=1.5), routed("tools/list")),
    "not JSON": (b"{", routed("tools/list")),
    "arguments are a list": (
        call("tools/call", {"name": "echo", "arguments": [1]}),
        routed("tools/call", "echo"),
    ),
}


def comparable(response: httpx2.Response) -> tuple[int, list[Any]]:
    """Status and messages, without what may differ."""
    kind = response.headers.get("content-type", "")
    said = (
        messages(response.text, kind) if response.text and kind.startswith(("application/json", "text/event")) else []
    )
    return response.status_code, [strip(message) for message in said]


def strip(message: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(message))
    if "error" in plain:
        plain["error"] = {"code": plain["error"]["code"], "data": plain["error"].get("data")}
        if plain["error"]["code"] in (-32601, -32602):
            plain["error"].pop("data")
    return dict(plain)


async def send(url: str, body: Any, headers: dict[str, str], method: str = "POST") -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        return await http.request(
            method, url, content=content, headers={"content-type": "application/json", **ACCEPT, **headers}
        )


@pytest.mark.parametrize("case", MODERN_CASES)
async def test_2026_07_28(both: Both, case: str) -> None:
    body, headers = MODERN_CASES[case]
    direct, via = await send(both.direct, body, headers), await send(both.via, body, headers)
    assert comparable(via) == comparable(direct)
    assert via.headers.get("mcp-session-id") == direct.headers.get("mcp-session-id")
    if direct.status_code == 200:
        assert via.headers["content-type"].partition(";")[0] == direct.headers["content-type"].partition(";")[0]


def legacy(method: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params is not None else {}), **more}


LEGACY_CASES: dict[str, Any] = {
    "ping": legacy("ping"),
    "tools": legacy("tools/list"),
    "prompts": legacy("prompts/list", {}),
    "resources": legacy("resources/list"),
    "templates": legacy("resources/templates/list"),
    "call": legacy("tools/call", {"name": "test_simple_text", "arguments": {}}),
    "call without arguments": legacy("tools/call", {"name": "test_simple_text"}),
    "call with logs": legacy("tools/call", {"name": "test_tool_with_logging"}),
    "call with progress": legacy("tools/call", {"name": "test_tool_with_progress", "_meta": {"progressToken": 9}}),
    "call with many kinds": legacy("tools/call", {"name": "test_multiple_content_types"}),
    "call with an error": legacy("tools/call", {"name": "test_error_handling"}),
    "unknown tool": legacy("tools/call", {"name": "no_such_tool"}),
    "an id of text": legacy("tools/call", {"name": "echo", "arguments": {"a": 1.5}}, id="abc"),
    "read": legacy("resources/read", {"uri": "test://static-binary"}),
    "read a template": legacy("resources/read", {"uri": "test://template/9/data"}),
    "read nothing": legacy("resources/read", {"uri": "test://no"}),
    "subscribe": legacy("resources/subscribe", {"uri": "test://watched-resource"}),
    "unsubscribe": legacy("resources/unsubscribe", {"uri": "test://watched-resource"}),
    "level": legacy("logging/setLevel", {"level": "warning"}),
    "prompt": legacy("prompts/get", {"name": "test_prompt_with_image"}),
    "unknown prompt": legacy("prompts/get", {"name": "no_such_prompt"}),
    "discover is of the other era": legacy("server/discover"),
    "unknown method": legacy("no/such"),
    "notification": {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
    "response to nothing": {"jsonrpc": "2.0", "id": 99, "result": {}},
    "batch": [legacy("ping")],
    "not JSON": b"{",
}


@pytest.mark.parametrize("case", LEGACY_CASES)
@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18", "2025-03-26"])
async def test_sessions(both: Both, case: str, version: str) -> None:
    if (case, version) == ("batch", "2025-03-26"):
        pytest.skip("this revision has batches; the SDK refuses them, the gateway answers (test_manners.py)")
    answers = []
    for url in (both.direct, both.via):
        info = {"name": "t", "version": "1"}
        hello = legacy("initialize", {"protocolVersion": version, "capabilities": {}, "clientInfo": info})
        opened = await send(url, hello, {})
        assert opened.status_code == 200
        assert messages(opened.text, opened.headers["content-type"])[0]["result"]["protocolVersion"] == version
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": version}
        await send(url, {"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
        answers.append(comparable(await send(url, LEGACY_CASES[case], session)))
        assert (await send(url, b"", session, "DELETE")).status_code == 200
        assert (await send(url, legacy("ping"), session)).status_code == 404
    direct, via = answers
    assert via[0] == direct[0]
    if case != "batch":  # -32600, as JSON-RPC says; the SDK says -32602
        assert via[1] == direct[1]


async def test_hosts_and_origins_are_refused_alike() -> None:
    """Against the SDK with its guard on."""
    guarded = asgi()
    lifespan = guarded.router.lifespan_context(guarded)
    async with lifespan, serving(guarded) as port, gateway(config({"fixture": server(http=True)})) as running:
        for headers, status in (
            ({"host": "evil.example"}, 421),
            ({"host": "localhost:99"}, 200),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "http://localhost:3000"}, 200),
        ):
            for url in (f"http://127.0.0.1:{port}/mcp", running.url("fixture")):
                response = await send(url, call("tools/list"), {**routed("tools/list"), **headers})
                assert response.status_code == status, (url, headers)
