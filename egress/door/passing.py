"""JSON messages with open sockets attached, over a SEQPACKET UNIX socket.

Both ends are ours (door, connector, egress, gateway). One message is one packet: a JSON object, and at most
`MAX_FDS` descriptors in SCM_RIGHTS (unix(7); the kernel's own limit is 253).

Standard library only: the door and the connector run on it.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, TypeAlias

MAX_FDS = 250
MAX_MESSAGE = 64 * 1024

Message: TypeAlias = dict[str, Any]


def send_packet(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message; the receiver gets duplicates of `fds`, ours stay open.

    Raises OSError (BlockingIOError when the socket is non-blocking and full).
    """
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(message).encode()], ancillary)


def receive_packet(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """One message and the descriptors that came with it (now the caller's to close); None at the end.

    Raises OSError, and ValueError for a packet that is no JSON object (its descriptors are closed).
    """
    space = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
    fds = _descriptors(ancillary)
    if not data and not fds:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("packet too large")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("packet is not a JSON object")
    except ValueError:
        close_all(fds)
        raise
    return message, fds


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that have no owner."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
