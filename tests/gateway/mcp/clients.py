"""Small raw clients for tests: what goes over the wire is what the test wrote."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2

ACCEPT = {"accept": "application/json, text/event-stream"}
MODERN = "2026-07-28"
Answerer = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


def messages(body: str, content_type: str) -> list[dict[str, Any]]:
    """The JSON-RPC messages of a response."""
    if content_type.startswith("application/json"):
        return [json.loads(body)]
    return [json.loads(line[5:]) for line in body.splitlines() if line.startswith("data:") and line[5:].strip()]


class Legacy:
    """A client of 2025-11-25 in one session."""

    def __init__(self, http: httpx2.AsyncClient, url: str, headers: dict[str, str]) -> None:
        self.http = http
        self.url = url
        self.headers = {**ACCEPT, **headers}
        self.ids = itertools.count(1)
        self.answer: Answerer | None = None
        self.result: dict[str, Any] = {}
        self.seen: list[dict[str, Any]] = []
        """Every notification and request that came."""

    async def open(self, capabilities: dict[str, Any]) -> None:
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": {"name": "test", "version": "1"},
        }
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        response = await self.http.post(self.url, json=message, headers=self.headers)
        assert response.status_code == 200, response.text
        said = response.json()
        assert "result" in said, said
        self.result = said["result"]
        self.headers["mcp-session-id"] = response.headers["mcp-session-id"]
        self.headers["mcp-protocol-version"] = self.result["protocolVersion"]
        await self.notify("notifications/initialized")

    async def post(self, message: dict[str, Any]) -> httpx2.Response:
        return await self.http.post(self.url, json=message, headers=self.headers)

    async def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        response = await self.post({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})})
        assert response.status_code == 202, response.text

    async def request(self, method: str, params: dict[str, Any] | None = None, number: Any = None) -> dict[str, Any]:
        """The whole response message; what else comes on the stream is answered or kept."""
        number = next(self.ids) if number is None else number
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}
        async with self.http.stream("POST", self.url, json=message, headers=self.headers) as response:
            if not response.headers["content-type"].startswith("text/event-stream"):
                said: dict[str, Any] = json.loads(await response.aread())
                return said
            async for line in response.aiter_lines():
                if not line.startswith("data:") or not line[5:].strip():
                    continue
                said = json.loads(line[5:])
                if "method" not in said:
                    return said
                self.seen.append(said)
                if "id" in said:
                    await self._answer(said)
        raise AssertionError("the stream ended without a response")

    async def _answer(self, asked: dict[str, Any]) -> None:
        assert self.answer is not None, asked
        result = await self.answer(asked["method"], asked["params"])
        await self.post({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    async def settled(self) -> dict[str, Any]:
        """The first tools/list result from which no backend is missing any more."""
        async with asyncio.timeout(60):
            while "stockade/unavailable" in (await self.request("tools/list"))["result"].get("_meta", {}):
                await asyncio.sleep(0.1)
            result: dict[str, Any] = (await self.request("tools/list"))["result"]
            return result

    async def call(self, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return await self.request("tools/call", {"name": tool, "arguments": arguments or {}, **more})

    async def text(self, tool: str, arguments: dict[str, Any] | None = None) -> str:
        said = await self.call(tool, arguments)
        assert "result" in said, said
        text: str = said["result"]["content"][0]["text"]
        return text


class Modern:
    """A client of 2026-07-28."""

    def __init__(
        self, http: httpx2.AsyncClient, url: str, headers: dict[str, str], capabilities: dict[str, Any]
    ) -> None:
        self.http = http
        self.url = url
        self.headers = {**ACCEPT, "mcp-protocol-version": MODERN, **headers}
        self.capabilities = capabilities
        self.ids = itertools.count(1)
        self.status = 0
        self.seen: list[dict[str, Any]] = []

    def message(self, method: str, params: dict[str, Any] | None = None, meta: dict[str, Any] | None = None) -> Any:
        full = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": self.capabilities,
            **(meta or {}),
        }
        return {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": {**(params or {}), "_meta": full}}

    def routing(self, message: dict[str, Any]) -> dict[str, str]:
        headers = {**self.headers, "mcp-method": message["method"]}
        name = message["params"].get("name") or message["params"].get("uri")
        return {**headers, "mcp-name": name} if name else headers

    async def request(
        self, method: str, params: dict[str, Any] | None = None, meta: dict[str, Any] | None = None, **headers: str
    ) -> dict[str, Any]:
        message = self.message(method, params, meta)
        sent = {**self.routing(message), **{name.replace("_", "-"): value for name, value in headers.items()}}
        response = await self.http.post(self.url, json=message, headers=sent)
        self.status = response.status_code
        said = messages(response.text, response.headers["content-type"])
        self.seen += said[:-1]
        return said[-1]

    async def settled(self) -> dict[str, Any]:
        """The first tools/list result from which no backend is missing any more."""
        async with asyncio.timeout(60):
            while "stockade/unavailable" in (await self.request("tools/list"))["result"].get("_meta", {}):
                await asyncio.sleep(0.1)
            result: dict[str, Any] = (await self.request("tools/list"))["result"]
            return result

    async def call(self, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return await self.request("tools/call", {"name": tool, "arguments": arguments or {}, **more})

    async def text(self, tool: str, arguments: dict[str, Any] | None = None) -> str:
        said = await self.call(tool, arguments)
        assert "result" in said, said
        text: str = said["result"]["content"][0]["text"]
        return text


def bearer(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


@asynccontextmanager
async def legacy(
    url: str, *, token: str | None = None, capabilities: dict[str, Any] | None = None
) -> AsyncIterator[Legacy]:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        client = Legacy(http, url, bearer(token))
        await client.open(capabilities or {})
        yield client


@asynccontextmanager
async def modern(
    url: str, *, token: str | None = None, capabilities: dict[str, Any] | None = None
) -> AsyncIterator[Modern]:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        yield Modern(http, url, bearer(token), capabilities or {})
