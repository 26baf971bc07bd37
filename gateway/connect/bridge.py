"""Forwards MCP between standard streams and the gateway's HTTP endpoint, for clients that only speak stdio.

Theory of operation. Each line on standard input is one JSON-RPC message and becomes one POST; what the endpoint
answers (one JSON body, or a stream of events) becomes lines on standard output. The bridge understands only what HTTP
needs:

* legacy era (up to 2025-11-25): the session id and protocol version of the `initialize` answer go into the headers of
  all later requests; after `notifications/initialized` a GET stream brings what the server starts by itself. When the
  gateway was restarted (404 for the session), the same `initialize` is sent again and the request repeated once, so
  the client never notices.
* modern era (2026-07-28): the version in `_meta` decides; `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` are taken from
  the body; `notifications/cancelled` closes the request's own stream.

A request that cannot be delivered is answered with a JSON-RPC error that says why. Requests in flight are bounded.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from mcp.shared.inbound import (
    NAME_BEARING_METHODS,
    encode_header_value,
    mcp_param_headers,
    x_mcp_header_map,
)

from gateway.sse import SseParser
from registry.model.errors import sentence

VERSION_META = "io.modelcontextprotocol/protocolVersion"
MAX_IN_FLIGHT = 256
FAREWELL_S = 10.0
STREAM_RETRY_S = 1.0
MAX_STREAM_RETRY_S = 30.0
CONNECT_S = 10.0
MAX_EVENT = 64 * 1024 * 1024
"""Bytes of one message of the gateway: the largest of a backend, and what the gateway adds."""
KEEP_ALIVE_S = 15.0
"""Shorter than the endpoint's own, so that no request goes out on a connection that it is closing."""

Line = Callable[[], Awaitable[bytes]]
Write = Callable[[str], None]
_LINE_ENDS = (("\u2028", r"\u2028"), ("\u2029", r"\u2029"), ("\x85", r"\u0085"))


class SessionGone(Exception):
    """Raised when the endpoint does not know the session any more."""


def modern_version(message: Mapping[str, Any]) -> str | None:
    """The protocol version in a message's own envelope; None for the legacy era."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    found = meta.get(VERSION_META) if isinstance(meta, dict) else None
    return found if isinstance(found, str) else None


def error_line(request_id: Any, message: str, code: int = -32000) -> str:
    """A JSON-RPC error as a line."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}})


class Bridge:
    """One client on standard streams, one endpoint."""

    def __init__(self, url: str, token: str, read: Line, write: Write) -> None:
        self._url = url
        self._read = read
        self._write = write
        self._base = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        if token:
            self._base["Authorization"] = f"Bearer {token}"
        self._session = ""
        self._version = ""
        self._initialize: Mapping[str, Any] | None = None
        self._renewing = asyncio.Lock()
        self._params: dict[str, dict[tuple[str, ...], str]] = {}
        self._requests: dict[Any, asyncio.Task[None]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def run(self) -> None:
        """Until standard input ends; then requests in flight get a short time, and the session is closed."""
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._http:
            async with asyncio.TaskGroup() as self._tasks:
                while line := await self._read():
                    await self._take(line)
                await self._farewell()

    async def _farewell(self) -> None:
        if self._requests:
            await asyncio.wait(self._requests.values(), timeout=FAREWELL_S)
        for task in [*self._requests.values(), *([self._listening] if self._listening else [])]:
            task.cancel()
        if self._session:
            try:
                async with asyncio.timeout(2), self._http.delete(self._url, headers=self._headers({})):
                    pass
            except (aiohttp.ClientError, TimeoutError):
                return

    async def _take(self, line: bytes) -> None:
        """One line from the client. Notifications and answers keep their order; requests run side by side."""
        if not line.strip():
            return
        try:
            message = json.loads(line)
        except ValueError as error:
            self._write(error_line(None, f"That line is not JSON: {error}", -32700))
            return
        if not isinstance(message, dict):
            self._write(error_line(None, "Send one JSON-RPC object per line; batches are not part of MCP.", -32600))
            return
        if "id" in message and "method" in message:
            await self._room.acquire()
            task = self._tasks.create_task(self._request(message))
            self._requests[_key(message["id"])] = task
            if message["method"] == "initialize":
                await asyncio.wait([task])
        else:
            await self._notify(message)

    async def _request(self, message: Mapping[str, Any]) -> None:
        try:
            await self._deliver(message)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            self._fail(message, f"No gateway answers at {self._url}. Start it: stockade up -d")
        except aiohttp.ClientError as error:
            self._fail(message, f"The connection to the gateway broke: {error or type(error).__name__}")
        except SessionGone:
            self._fail(message, "The gateway does not know this session any more. Start the client again.")
        finally:
            self._requests.pop(_key(message["id"]), None)
            self._room.release()

    def _fail(self, message: Mapping[str, Any], words: str) -> None:
        self._write(error_line(message["id"], words))

    async def _deliver(self, message: Mapping[str, Any]) -> None:
        session = self._session
        try:
            await self._post(message)
        except SessionGone:
            await self._renew(session)
            await self._post(message)

    async def _renew(self, gone: str) -> None:
        """Open a new session with the client's own `initialize`, once for all requests that need it."""
        async with self._renewing:
            if self._session != gone:
                return
            if self._initialize is None:
                raise SessionGone
            self._session = ""
            await self._post({**self._initialize, "id": "stockade-bridge-renew"}, quiet=True)
            await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"}, quiet=True)
            self._listen()

    async def _notify(self, message: Mapping[str, Any]) -> None:
        """A notification, or the client's answer to a server's request; a failure is only logged."""
        if message.get("method") == "notifications/cancelled" and not self._version:
            params = message.get("params") or {}
            if task := self._requests.get(_key(params.get("requestId"))):
                task.cancel()
            return
        try:
            await self._deliver(message)
        except (aiohttp.ClientError, SessionGone) as error:
            complain(f"a notification was not delivered: {error or type(error).__name__}")
            return
        if message.get("method") == "notifications/initialized":
            self._listen()

    def _headers(self, message: Mapping[str, Any]) -> dict[str, str]:
        """The headers that this message needs, by the era that it speaks."""
        if version := modern_version(message):
            return {**self._base, "MCP-Protocol-Version": version, **self._routing(message)}
        extra = {"Mcp-Session-Id": self._session, "MCP-Protocol-Version": self._version}
        first = message.get("method") == "initialize"
        return {**self._base, **({} if first else {key: value for key, value in extra.items() if value})}

    def _routing(self, message: Mapping[str, Any]) -> dict[str, str]:
        """`Mcp-Method`, `Mcp-Name`, `Mcp-Param-*` (MCP 2026-07-28, transports)."""
        method, params = str(message.get("method", "")), message.get("params") or {}
        headers = {"Mcp-Method": encode_header_value(method)}
        name = params.get(NAME_BEARING_METHODS.get(method, ""))
        if isinstance(name, str):
            headers["Mcp-Name"] = encode_header_value(name)
            if method == "tools/call" and isinstance(arguments := params.get("arguments"), dict):
                headers.update(mcp_param_headers(self._params.get(name, {}), arguments))
        return headers

    async def _post(self, message: Mapping[str, Any], *, quiet: bool = False) -> None:
        """Send one message and write what comes back. Raises SessionGone on 404 for a session."""
        body = json.dumps(message, separators=(",", ":")).encode()
        async with self._http.post(self._url, data=body, headers=self._headers(message)) as response:
            if response.status == 404 and self._session and not modern_version(message):
                raise SessionGone
            if response.status >= 400:
                self._refused(message, response.status, await response.read())
                return
            answered = "id" not in message or "method" not in message
            async for text in _messages(response):
                answered |= self._receive(message, text, response, quiet)
            if not answered:
                self._fail(message, "The gateway closed the connection before it answered.")

    def _refused(self, message: Mapping[str, Any], status: int, raw: bytes) -> None:
        """An HTTP error: a JSON-RPC error is forwarded as it is, anything else becomes one."""
        if "id" not in message or "method" not in message:
            complain(f"the gateway answered {status} to a notification")
            return
        try:
            answer = json.loads(raw)
            told = answer["error"]
            words = (
                told["message"]
                if isinstance(told, dict)
                else str(answer.get("error_description") or answer.get("message") or told)
            )
        except (ValueError, KeyError, TypeError):
            answer, told, words = {}, None, raw.decode("utf-8", "replace").strip()[:500]
        if isinstance(told, dict) and answer.get("jsonrpc") == "2.0":
            self._write(json.dumps({**answer, "id": message["id"]}))
        else:
            hint = " Set STOCKADE_TOKEN to a token from: stockade client add NAME" if status == 401 else ""
            self._fail(message, f"The gateway answered {status}: {sentence(words)}{hint}")

    def _receive(self, request: Mapping[str, Any], text: str, response: aiohttp.ClientResponse, quiet: bool) -> bool:
        """One message of the endpoint; True when it is the answer to the request."""
        message = json.loads(text)
        answers = "method" not in message and message.get("id") == request.get("id")
        if answers and isinstance(result := message.get("result"), dict):
            self._learn(request, result, response)
        if not (quiet and answers):
            self._write(_one_line(text))
        return answers

    def _learn(self, request: Mapping[str, Any], result: Mapping[str, Any], response: aiohttp.ClientResponse) -> None:
        """What later requests need: the session, the version, which arguments go into headers."""
        if request.get("method") == "initialize":
            self._initialize = request
            self._session = response.headers.get("mcp-session-id", "")
            self._version = str(result.get("protocolVersion", ""))
        elif request.get("method") == "tools/list":
            for tool in result.get("tools", []):
                self._params[tool["name"]] = x_mcp_header_map(tool.get("inputSchema"))

    def _listen(self) -> None:
        """The GET stream of a legacy session."""
        if self._listening is not None:
            self._listening.cancel()
        if self._session:
            self._listening = self._tasks.create_task(self._listen_on(self._session))

    async def _listen_on(self, session: str) -> None:
        wait_s = STREAM_RETRY_S
        while self._session == session:
            try:
                async with self._http.get(self._url, headers=self._headers({})) as response:
                    if response.status >= 400:
                        return
                    async for text in _messages(response):
                        wait_s = STREAM_RETRY_S
                        self._write(_one_line(text))
            except aiohttp.ClientError:
                wait_s = min(wait_s * 2, MAX_STREAM_RETRY_S)
            await asyncio.sleep(wait_s)


def _one_line(text: str) -> str:
    """A message as one line, also to readers that end lines at U+2028, U+2029 or U+0085."""
    if "\n" in text:
        text = json.dumps(json.loads(text))
    for end, escape in _LINE_ENDS:
        if end in text:
            text = text.replace(end, escape)
    return text


def _key(request_id: Any) -> str:
    """Ids 1 and "1" are two requests."""
    return json.dumps(request_id)


async def _messages(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The JSON-RPC messages of an answer: its one body, or the data of its events."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        if body := (await response.read()).decode():
            yield body
        return
    parser = SseParser(MAX_EVENT)
    async for chunk in response.content.iter_any():
        try:
            events = parser.feed(chunk)
        except ValueError as error:
            raise aiohttp.ClientPayloadError(str(error)) from error
        for event in events:
            if event.data:
                yield event.data.decode("utf-8", "replace")


def complain(words: str) -> None:
    """A line on stderr, which AI clients show in their logs."""
    sys.stderr.write(f"stockade bridge: {words}\n")
    sys.stderr.flush()


async def on_standard_streams(url: str, token: str) -> None:
    """Run a bridge on this process's own standard input and output."""

    def write(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    async def read() -> bytes:
        return await asyncio.to_thread(sys.stdin.buffer.readline)

    await Bridge(url, token, read, write).run()
