"""HTTP backends that do what the specification lets them: remote ones with credentials, lost sessions, cut streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from registry.secrets import SecretStore
from tests.gateway.mcp.clients import legacy
from tests.gateway.mcp.fakes import Gateway, config, gateway, server, serving

pytestmark = pytest.mark.anyio
BASIC = "Basic YXBwOnMzY3JldA=="


class Remote:
    """A legacy streamable HTTP server with an authorization server beside it, written out by hand."""

    def __init__(self) -> None:
        self.tokens = 0
        self.valid = ""
        self.session = ""
        self.sessions = 0
        self.calls: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.query = ""
        self.forms: list[Mapping[str, list[str]]] = []
        self.open = False
        """Without OAuth: any header will do."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.query = scope["query_string"].decode()
        if scope["path"] == "/token":
            await self.token(headers, body, send)
        elif not self.open and headers.get("authorization") != f"Bearer {self.valid}":
            await reply(send, 401, {"error": "invalid_token"})
        elif scope["method"] == "GET":
            await self.stream(headers, send)
        elif scope["method"] == "DELETE":
            await reply(send, 200, None)
        else:
            await self.post(headers, json.loads(body), send)

    async def token(self, headers: dict[str, str], body: bytes, send: Any) -> None:
        assert headers["authorization"] == BASIC
        self.forms.append(parse_qs(body.decode()))
        self.tokens += 1
        self.valid = f"token-{self.tokens}"
        await reply(send, 200, {"access_token": self.valid, "token_type": "Bearer", "expires_in": 3600})

    async def post(self, headers: dict[str, str], message: dict[str, Any], send: Any) -> None:
        self.headers = headers
        match message["method"]:
            case "initialize":
                self.sessions += 1
                self.session = f"session-{self.sessions}"
                result: Any = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "remote", "version": "1"},
                }
                await reply(send, 200, answer(message, result), {"mcp-session-id": self.session})
            case _ if headers.get("mcp-session-id") != self.session:
                await reply(send, 404, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "gone"}})
            case _ if "id" not in message:
                await reply(send, 202, None)
            case "tools/list":
                tools = [{"name": name, "inputSchema": {}} for name in ("hello", "cut")]
                await reply(send, 200, answer(message, {"tools": tools}))
            case "tools/call":
                self.calls.append(message)
                if message["params"]["name"] == "cut":
                    await events(send, "id: e1\nretry: 20\ndata:\n\n")
                else:
                    await reply(send, 200, answer(message, text("hello")))
            case _:
                error = {"code": -32601, "message": "Method not found"}
                await reply(send, 200, {"jsonrpc": "2.0", "id": message["id"], "error": error})

    async def stream(self, headers: dict[str, str], send: Any) -> None:
        if headers.get("last-event-id") != "e1":
            await reply(send, 405, None)
            return
        said = json.dumps(answer(self.calls[-1], text("resumed")))
        await events(send, f"id: e2\nevent: message\ndata: {said}\n\n")


def text(words: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}]}


def answer(message: dict[str, Any], result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


async def reply(send: Any, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
    body = b"" if document is None else json.dumps(document).encode()
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    lines += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def events(send: Any, body: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": body.encode()})


class Secrets:
    def resolve(self, values: Mapping[str, str]) -> dict[str, str]:
        return {key: value.replace("${secret:app}", "s3cret") for key, value in values.items()}


@asynccontextmanager
async def remote(**entry: Any) -> AsyncIterator[tuple[Gateway, Remote]]:
    server = Remote()
    server.open = "auth" not in entry
    async with serving(server.app) as port:
        base = f"http://127.0.0.1:{port}"
        if "auth" in entry:
            entry["auth"]["client_credentials"]["token_url"] = base + "/token"
        settings = config({"far": {"url": base + "/mcp", **entry}})
        async with gateway(settings, secrets=Secrets()) as running:
            yield running, server


async def test_headers_are_sent_with_their_secrets_and_the_clients_token_is_not() -> None:
    async with remote(headers={"X-Key": "key ${secret:app}"}) as (running, far):
        async with legacy(running.url("far")) as client:
            assert await client.text("hello") == "hello"
            assert far.headers["x-key"] == "key s3cret"
            assert "authorization" not in far.headers
            assert [event.transport for event in running.calls() if event.tool == "hello"] == ["tcp"]


async def test_a_remote_server_without_its_secret_says_so_and_the_others_go_on() -> None:
    """Also when the configuration is changed while the gateway runs: it is in force as a whole."""
    far = Remote()
    far.open = True
    async with serving(far.app) as port:
        entry = {"url": f"http://127.0.0.1:{port}/mcp", "headers": {"X-Key": "key ${secret:app} ${env:NOWHERE}"}}
        store = SecretStore(env={}, folder=Path("/nonexistent"), keyring=None)
        async with gateway(config({"near": server(), "far": entry}), secrets=store) as running:
            async with legacy(running.url()) as client:
                said = (await client.call("far__hello"))["error"]["message"]
                assert "mcpServers.far.headers.X-Key: the secret 'app' is not set" in said
                assert "NOWHERE is not set" in said
                assert await client.text("near__echo", {"text": "here"}) == '{"text": "here"}'
            known = SecretStore(env={"STOCKADE_SECRET_APP": "s3cret", "NOWHERE": "x"}, keyring=None)
            running.endpoint.apply(config({"near": server(), "far": entry}), known)
            running.endpoint.reconnect("far")
            async with legacy(running.url()) as client:
                assert await client.text("far__hello") == "hello"
            assert far.headers["x-key"] == "key s3cret x"
            assert running.endpoint.trouble("far") == ""


async def test_a_url_is_requested_with_its_references_filled_in_and_never_shown_filled() -> None:
    far = Remote()
    far.open = True
    async with serving(far.app) as port:
        entry = {"url": "http://${env:WHERE}/mcp?key=${secret:app}"}
        known = SecretStore(env={"STOCKADE_SECRET_APP": "s3cret", "WHERE": f"127.0.0.1:{port}"}, keyring=None)
        async with gateway(config({"far": entry}), secrets=known) as running, legacy(running.url()) as client:
            assert await client.text("far__hello") == "hello"
            assert far.query == "key=s3cret"
        lost = SecretStore(env={"WHERE": "127.0.0.1:1"}, folder=Path("/nonexistent"), keyring=None)
        async with gateway(config({"far": entry}), secrets=lost) as running, legacy(running.url()) as client:
            said = (await client.call("far__hello"))["error"]["message"]
            assert "mcpServers.far.url: the secret 'app' is not set" in said
        bad = SecretStore(env={"STOCKADE_SECRET_APP": "s3 cret", "WHERE": "127.0.0.1:1"}, keyring=None)
        async with gateway(config({"far": entry}), secrets=bad) as running, legacy(running.url()) as client:
            said = (await client.call("far__hello"))["error"]["message"]
            assert "mcpServers.far.url: 'http://${env:WHERE}/mcp?key=${secret:app}' is not an http(s) URL" in said
            assert "s3 cret" not in said


@pytest.mark.parametrize("value", ["two\nlines", "snow ☃"])
async def test_a_secret_that_no_header_can_carry_is_told_by_its_key_alone(value: str) -> None:
    store = SecretStore(env={"STOCKADE_SECRET_APP": value}, folder=Path("/nonexistent"), keyring=None)
    entry = {"url": "http://127.0.0.1:9/mcp", "headers": {"X-Key": "${secret:app}"}}
    async with gateway(config({"far": entry}), secrets=store) as running, legacy(running.url()) as client:
        said = (await client.call("far__hello"))["error"]["message"]
        assert "mcpServers.far.headers.X-Key: cannot be sent. A header's value is one line" in said
        assert value not in said


async def test_client_credentials_are_fetched_once_and_again_when_they_are_refused() -> None:
    grant = {"client_id": "app", "client_secret": "${secret:app}", "scope": "mcp"}
    async with remote(auth={"client_credentials": grant}) as (running, far), legacy(running.url("far")) as client:
        assert await client.text("hello") == "hello"
        assert await client.text("hello") == "hello"
        assert far.tokens == 1
        assert far.forms[0]["grant_type"] == ["client_credentials"]
        assert far.forms[0]["scope"] == ["mcp"]
        assert far.forms[0]["resource"][0].endswith("/mcp")
        far.valid = "revoked"
        assert await client.text("hello") == "hello"
        assert far.tokens == 2
        assert len(far.calls) == 3


async def test_a_session_that_the_backend_forgot_is_opened_anew_for_the_same_client() -> None:
    async with remote() as (running, far), legacy(running.url("far")) as client:
        assert await client.text("hello") == "hello"
        opened, far.session = far.sessions, "restarted"
        assert await client.text("hello") == "hello"
        assert far.sessions == opened + 1
        assert len(far.calls) == 2


async def test_a_stream_that_was_cut_is_resumed_and_the_call_is_not_made_twice() -> None:
    async with remote() as (running, far), legacy(running.url("far")) as client:
        assert await client.text("cut") == "resumed"
        assert len(far.calls) == 1


async def test_a_remote_server_that_is_not_there_is_named_in_the_error_at_once() -> None:
    settings = config({"far": {"url": "http://127.0.0.1:9/mcp"}}, gateway={"start_timeout_s": 200})
    async with gateway(settings) as running, legacy(running.url()) as client, asyncio.timeout(50):
        said = await client.call("far__hello")
        assert said["error"]["message"].startswith("Server far: ")
