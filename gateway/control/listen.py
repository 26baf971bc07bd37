"""Listening sockets for the control and admin apps, and the HTTP server that runs on them."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from gateway.connections import ADMIN_CONNECTIONS, Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp


BACKLOG = 256
"""Connections that may wait to be accepted; they are accepted all at once, and each takes a descriptor."""


SEND_BUFFER = 256 * 1024
"""Bytes of an answer that the kernel buffers for a client that does not read; the default would be megabytes, uncounted."""


class ListenError(OSError):
    """Raised when an address cannot be listened on; the text names the process that has it and what to change."""


@contextmanager
def private_umask() -> Iterator[None]:
    """Files made inside are for their owner only (0600)."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def bind_unix(path: Path) -> socket.socket:
    """A listening UNIX socket of mode 0600. It replaces one on which no process listens any more.

    Raises ListenError when another process still answers there or the path is too long for the kernel.
    """
    if len(os.fsencode(path)) > 100:
        raise ListenError(
            f"{path} is too long for a UNIX socket (100 bytes). Set STOCKADE_STATE_DIR to a shorter directory."
        )
    if path.exists() and _answers(path):
        raise ListenError(f"Another gateway already answers on {path}. Stop it first: stockade down")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with private_umask():
        listener.bind(str(path))
    listener.listen(64)
    listener.setblocking(False)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def bind_tcp(listen: str, key: str) -> socket.socket:
    """A listening TCP socket at `HOST:PORT`; `key` is the configuration key to name in an error.

    Raises ListenError when the address is taken, not ours or not allowed.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    # With the protocol named, asyncio too turns Nagle's algorithm off; with it on, each answer would take 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(_why(error, listen, int(port), key)) from error
    listener.setblocking(False)
    return listener


def _why(error: OSError, listen: str, port: int, key: str) -> str:
    example = f"{key.split('.')[-1]}: 127.0.0.1:{port + 100}"
    change = f"Stop it, or set `{key}` in the configuration to another port, e.g. {example}"
    match error.errno:
        case errno.EADDRINUSE:
            owner = port_owner(port)
            return f"Port {port} is already in use{f' by {owner}' if owner else ''}. {change}"
        case errno.EACCES:
            return f"Not allowed to listen on {listen}: ports below 1024 need root. Set `{key}` to a higher port."
        case errno.EADDRNOTAVAIL:
            return f"{listen} is not an address of this machine. Set `{key}` to 127.0.0.1:{port}."
        case _:
            return f"Cannot listen on {listen} (`{key}`): {error.strerror}"


def port_owner(port: int, proc: Path = Path("/proc")) -> str:
    """`nginx (pid 812)` for the process that listens on a TCP port, or `""` when that cannot be seen."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(proc / "net" / table, port)}
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in proc.iterdir():
        if process.name.isdigit() and _holds(process, wanted):
            return f"{_name(process)} (pid {process.name})"
    return ""


def _listening(table: Path, port: int) -> Iterator[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _holds(process: Path, wanted: set[str]) -> bool:
    try:
        return any(os.readlink(fd) in wanted for fd in (process / "fd").iterdir())
    except OSError:
        return False


def _name(process: Path) -> str:
    try:
        name = (process / "comm").read_text().strip()
    except OSError:
        return "a process"
    return re.sub(r"[^\w.+-]", "?", name)


class HttpServer(uvicorn.Server):
    """Uvicorn on sockets of ours, inside our own event loop: it takes no signal and prints no banner."""

    def __init__(self, app: ASGIApp, *, grace_s: float = 5, limits: Limits | None = None) -> None:
        """`limits` bounds its connections."""
        self.up = asyncio.Event()
        """Set once it accepts connections."""
        super().__init__(
            uvicorn.Config(
                app,
                http=(limits or Limits(ADMIN_CONNECTIONS)).connection,  # type: ignore[arg-type]  # a class or what makes one
                backlog=BACKLOG,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                interface="asgi3",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=max(1, int(grace_s)),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to `gateway/app.py`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def run_on(self, *listeners: socket.socket) -> None:
        """Serve until `stop` (or until cancelled, which cuts what is in flight); closes the listeners."""
        self.servers: list[asyncio.base_events.Server] = []
        try:
            await self.serve(sockets=list(listeners))
        finally:
            for server in self.servers:
                server.close()
            for listener in listeners:
                listener.close()
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    def stop(self) -> None:
        """Take no new connection, let requests in flight finish within the grace, then cut them."""
        self.should_exit = True
