"""The gateway's way into a namespace: it names a door and a port, and gets a connected socket.

SEQPACKET over `ingress.sock`: `{"door", "port", "timeout_s"}` is answered with `{"ok": true}` and the socket, or
with `{"error": sentence}`.
"""

from __future__ import annotations

import asyncio

from egress.door.passing import Message, close_all
from egress.doors.packets import PacketConnection
from egress.doors.sessions import DoorError, Doors

MAX_TIMEOUT_S = 60.0


class Ingress:
    """Brokers connections into namespaces."""

    def __init__(self, doors: Doors, tasks: asyncio.TaskGroup) -> None:
        self.doors = doors
        self.tasks = tasks

    def on_peer(self, connection: PacketConnection) -> None:
        connection.on_message = lambda message, fds: self.on_question(connection, message, fds)

    def on_question(self, connection: PacketConnection, message: Message, fds: list[int]) -> None:
        close_all(fds)
        door, port = str(message["door"]), int(message["port"])
        timeout_s = min(float(message.get("timeout_s", 5.0)), MAX_TIMEOUT_S)
        self.tasks.create_task(self.connect(connection, door, port, timeout_s))

    async def connect(self, connection: PacketConnection, door: str, port: int, timeout_s: float) -> None:
        try:
            fd = await self.doors.connect_inside(door, port, timeout_s)
        except DoorError as error:
            connection.send({"error": f"127.0.0.1:{port} behind door {door}: {error}"})
            return
        connection.send({"ok": True}, [fd])
        close_all([fd])
