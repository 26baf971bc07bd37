"""SEQPACKET connections (`egress.door.passing`) on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from egress.door.passing import Message, close_all, receive_packet, send_packet

READS_AT_ONCE = 16
MAX_PEERS = 1024


class PacketConnection:
    """One SEQPACKET peer. `on_message` owns the descriptors it is given; `on_close` is called exactly once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        self.closed = False
        self.on_message: Callable[[Message, list[int]], None] = lambda _, fds: close_all(fds)
        self.on_close: Callable[[], None] = lambda: None
        sock.setblocking(False)

    def start(self) -> None:
        self.loop.add_reader(self.sock.fileno(), self.read_some)

    def read_some(self) -> None:
        for _ in range(READS_AT_ONCE):
            if self.closed:
                return
            try:
                packet = receive_packet(self.sock)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, ValueError):
                packet = None
            if packet is None:
                self.close()
                return
            try:
                self.on_message(*packet)
            except (KeyError, TypeError, ValueError):
                # Not what our own other end would say.
                self.close()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send now; a peer that does not read (its queue is full) is cut off."""
        if self.closed:
            return
        try:
            send_packet(self.sock, message, fds)
        except OSError:
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.loop.remove_reader(self.sock.fileno())
        self.sock.close()
        self.on_close()


class PacketServer:
    """Listens on a SEQPACKET UNIX socket and hands each peer to `on_peer`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: Path, on_peer: Callable[[PacketConnection], None]
    ) -> None:
        """Binds at once, replacing a socket of an earlier process. Raises OSError."""
        self.loop = loop
        self.path = path
        self.on_peer = on_peer
        self.peers = 0
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.bind(str(path))
        # Who may come here is decided by the 0700 directory above, on the host.
        os.chmod(path, 0o666)  # noqa: S103
        self.sock.listen(512)
        self.sock.setblocking(False)
        loop.add_reader(self.sock.fileno(), self.accept)

    def accept(self) -> None:
        try:
            sock, _ = self.sock.accept()
        except OSError:
            return
        connection = PacketConnection(self.loop, sock)
        self.on_peer(connection)
        if not connection.closed:
            connection.start()

    def close(self) -> None:
        self.loop.remove_reader(self.sock.fileno())
        self.sock.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
