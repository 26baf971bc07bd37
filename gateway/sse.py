"""Reads server-sent events (WHATWG HTML 9.2.6) from bytes as they come. There is no other reader of them here."""

from __future__ import annotations

from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event; `data` is empty where it only sets an id or a delay."""

    name: str
    id: str | None
    retry_ms: int | None
    data: bytes


class SseParser:
    """Splits an event stream into events."""

    def __init__(self, limit: int) -> None:
        """`limit` is how many bytes one event may have."""
        self._limit = limit
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._name = "message"
        self._id: str | None = None
        self._retry_ms: int | None = None
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Take a piece of the stream; returns the events that it completes. Raises ValueError when one is too large."""
        held = self._rest.endswith(b"\r")
        self._rest += chunk
        if len(self._rest) + self._size > self._limit:
            raise ValueError(f"it sent an event of more than {self._limit} bytes")
        if not held and b"\n" not in chunk and b"\r" not in chunk:
            return []  # a long line in small pieces is not split again for each of them
        lines = bytes(self._rest).splitlines(keepends=True)
        self._rest.clear()
        if lines and (not lines[-1].endswith((b"\n", b"\r")) or lines[-1].endswith(b"\r")):
            self._rest += lines.pop()
        events = (self._line(line.rstrip(b"\r\n")) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 8  # an empty line takes room too
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 9:
            self._retry_ms = int(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent(self._name, self._id, self._retry_ms, b"\n".join(self._data))
        empty = not self._data and self._id is None and self._retry_ms is None
        self._data, self._name, self._id, self._retry_ms, self._size = [], "message", None, None, 0
        return None if empty else event
