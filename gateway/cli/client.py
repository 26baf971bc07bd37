"""The CLI's connection to a running gateway: HTTP over its control socket, with the standard library (it loads fast)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from gateway.cli.failure import Refused as Refused
from gateway.cli.failure import Unreachable as Unreachable
from gateway.sse import SseParser

TIMEOUT_S = 60.0
MAX_EVENT = 64 * 1024 * 1024
"""Bytes of one event."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def url(*parts: str, **query: object) -> str:
    """`/api/v1/…` with every part and value quoted; None and False values are left out, True is `1`."""
    kept = {k: 1 if v is True else v for k, v in query.items() if v is not None and v is not False}
    path = "/api/v1/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(kept)}" if kept else path


class Api:
    """Calls to one gateway."""

    def __init__(self, control_socket: Path) -> None:
        self.path = control_socket

    def get(self, target: str) -> Any:
        """The decoded answer. Raises Refused and Unreachable, as all of these do."""
        return self.call("GET", target)

    def post(self, target: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.call("POST", target, body or {})

    def put(self, target: str, body: Mapping[str, Any]) -> Any:
        return self.call("PUT", target, body)

    def delete(self, target: str) -> Any:
        return self.call("DELETE", target)

    def call(
        self, method: str, target: str, body: Mapping[str, Any] | None = None, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """One request; JSON both ways, or text where the answer is text."""
        connection = _Connection(self.path, timeout_s)
        try:
            return self._exchange(connection, method, target, body)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"The gateway does not answer on {self.path}: {error}") from error
        finally:
            connection.close()

    def _exchange(self, connection: _Connection, method: str, target: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, target, json.dumps(body).encode() if body is not None else None, headers)
        response = connection.getresponse()
        raw = response.read()
        if response.status >= 400:
            raise _refused(response.status, raw)
        is_json = response.headers.get_content_type() == "application/json"
        return json.loads(raw) if is_json else raw.decode("utf-8", "replace")

    def stream(self, target: str) -> Iterator[tuple[str, Any]]:
        """Server-Sent Events as (event name, decoded data) until the gateway ends the stream."""
        connection = _Connection(self.path, None)
        try:
            connection.request("GET", target, headers={"Accept": "text/event-stream"})
            response = connection.getresponse()
            if response.status >= 400:
                raise _refused(response.status, response.read())
            yield from parse_events(iter(response.readline, b""))
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"The gateway stopped answering on {self.path}: {error}") from error
        finally:
            connection.close()


def parse_events(lines: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    """Events of a stream whose data is JSON; comments and other fields are passed over."""
    parser = SseParser(MAX_EVENT)
    for line in lines:
        for event in parser.feed(line):
            if event.data:
                yield event.name, json.loads(event.data)


def _refused(status: int, raw: bytes) -> Refused:
    try:
        body = json.loads(raw)
        error = body.get("error") or {"code": body["state"], "message": body["detail"]}
        return Refused(status, error["code"], error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused(status, "error", f"The gateway answered {status}.")
