"""A relay that does nothing but relay, on the gateway's own stack: `python bench/relay.py (http PORT | stdio COMMAND …)`.

uvicorn with httptools on uvloop, one ASGI application, kept connections or one pipe to the backend: what any gateway in
Python pays at least. `bench/gateway.py` prints the gateway's cost as a ratio to it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)

from bench.gateway import Line, post  # noqa: E402


class HttpBackend:
    """Kept connections to a bare HTTP server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[Line] = []

    async def ask(self, body: bytes, session: str) -> tuple[bytes, bytes]:
        """The answer's body and its session."""
        if self.idle:
            line = self.idle.pop()
        else:
            _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", self.port)
        said = await line.ask(post("/mcp", body, {"Mcp-Session-Id": session} if session else {}))
        self.idle.append(line)
        head, _, rest = said.partition(b"\r\n\r\n")
        at = head.lower().find(b"mcp-session-id:")
        return rest, head[at + 15 :].split(b"\r\n")[0].strip() if at >= 0 else b""


class PipeBackend:
    """One process that answers in order."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.process: Any = None
        self.waiting: deque[asyncio.Future[bytes]] = deque()

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.reading = asyncio.create_task(self.read())  # noqa: TID251  # it lives as long as this process

    async def read(self) -> None:
        async for line in self.process.stdout:
            self.waiting.popleft().set_result(line)

    async def ask(self, body: bytes, session: str) -> tuple[bytes, bytes]:
        self.process.stdin.write(body + b"\n")
        if b'"id"' not in body:
            return b"", b"relay"
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        return await answer, b"relay"


async def serve(backend: HttpBackend | PipeBackend) -> None:
    from gateway.control.listen import HttpServer, bind_tcp

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        session = next((value.decode() for name, value in scope["headers"] if name == b"mcp-session-id"), "")
        json.loads(body)
        said, session_ = await backend.ask(body, session)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
        if session_:
            headers.append((b"mcp-session-id", session_))
        await send({"type": "http.response.start", "status": 200 if said else 202, "headers": headers})
        await send({"type": "http.response.body", "body": said})

    if isinstance(backend, PipeBackend):
        await backend.start()
    sock = bind_tcp("127.0.0.1:0", "relay")
    server = HttpServer(app)
    asyncio.get_running_loop().add_signal_handler(15, server.stop)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.run_on(sock))
        await server.up.wait()
        print(f"listening {sock.getsockname()[1]}", file=sys.stderr, flush=True)
        await serving
    if isinstance(backend, PipeBackend):
        backend.process.kill()


if __name__ == "__main__":
    import uvloop

    match sys.argv[1:]:
        case ["http", port_]:
            uvloop.run(serve(HttpBackend(int(port_))))
        case ["stdio", *command_]:
            uvloop.run(serve(PipeBackend(command_)))
        case _:
            sys.exit(__doc__)
