"""Connected TCP sockets on loopback, and a poller to watch one end of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator

from egress.net.poller import Poller

WAIT_S = 60.0
LOOPS = [
    ("asyncio", {"use_uvloop": False}),
    ("asyncio", {"use_uvloop": True}),
]
"""Values of `anyio_backend`: both event loops that the egress runs on."""


@contextlib.contextmanager
def tcp_pair(*, small: bool = False) -> Iterator[tuple[socket.socket, socket.socket]]:
    """(ours, non-blocking; the peer's, blocking) on 127.0.0.1; `small`: the kernel takes little before it is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.socket() as peer:
            if small:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(listener.getsockname())
            ours, _ = listener.accept()
            with ours:
                if small:
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                ours.setblocking(False)
                peer.settimeout(WAIT_S)
                yield ours, peer


@contextlib.asynccontextmanager
async def polling() -> AsyncIterator[Poller]:
    """A poller in the running loop."""
    poller = Poller(asyncio.get_running_loop())
    try:
        yield poller
    finally:
        poller.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Let the loop run for a while, for what should not happen."""
    for _ in range(count):
        await asyncio.sleep(0)


def reset(sock: socket.socket) -> None:
    """Close it so that the other end is reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def everything(sock: socket.socket) -> bytes:
    """What a blocking socket gets until the end; a reset counts as one."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return bytes(data)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
