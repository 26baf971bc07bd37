"""Events of a plausible gateway, for the tests of this package."""

from __future__ import annotations

from typing import Any

from observability.events import (
    CallEvent,
    CallRef,
    Decision,
    EgressEvent,
    Phase,
    Reason,
    Sequenced,
)

EPOCH = "e1"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


def call_ref(**changes: Any) -> CallRef:
    values: dict[str, Any] = {"request_id": "7", "method": "tools/call", "tool": "fetch", "client": "cursor"}
    return CallRef(**(values | changes))


def decided(connection: int = 1, **changes: Any) -> EgressEvent:
    """A denial of evil.example:443 on `fetch`, or what the changes make of it."""
    values: dict[str, Any] = {
        "seq": connection * 2 - 1,
        "epoch": EPOCH,
        "phase": Phase.DECIDED,
        "time": 1000.0 + connection,
        "connection": connection,
        "backend": "fetch",
        "door": "fetch",
        "method": "CONNECT",
        "host": "evil.example",
        "port": 443,
        "rule_port": 443,
        "client_address": "127.0.0.1",
        "decision": Decision.DENY,
        "reason": Reason.HOST_NOT_ALLOWED,
    }
    return EgressEvent(**(values | changes))


ALLOWED: dict[str, Any] = {
    "host": "api.github.com",
    "address": "203.0.113.7",
    "decision": Decision.ALLOW,
    "reason": None,
    "rule": "api.github.com",
}


def allowed(connection: int = 1, **changes: Any) -> EgressEvent:
    """api.github.com:443 is allowed to `fetch`."""
    return decided(connection, **(ALLOWED | {"dns_s": 0.004} | changes))


def closed(connection: int = 1, **changes: Any) -> EgressEvent:
    """That connection ends after two seconds."""
    ending: dict[str, Any] = {
        "phase": Phase.CLOSED,
        "seq": connection * 2,
        "time": 1002.0 + connection,
        "dns_s": 0.004,
        "connect_s": 0.03,
        "duration_s": 2.0,
        "bytes_sent": 500,
        "bytes_received": 9000,
    }
    return decided(connection, **(ALLOWED | ending | changes))


def moved(connection: int = 1, **changes: Any) -> EgressEvent:
    """That connection is still open after 15 seconds."""
    so_far: dict[str, Any] = {
        "phase": Phase.PROGRESS,
        "time": 1015.0 + connection,
        "duration_s": 15.0,
        "bytes_sent": 400,
        "bytes_received": 8000,
    }
    return decided(connection, **(ALLOWED | so_far | changes))


def called(**changes: Any) -> CallEvent:
    values: dict[str, Any] = {
        "time": 1003.0,
        "request_id": "7",
        "method": "tools/call",
        "backend": "fetch",
        "client": "cursor",
        "tool": "fetch",
        "duration_s": 0.25,
    }
    return CallEvent(**(values | changes))


def numbered(*events: Any, first: int = 1) -> list[Sequenced]:
    return [Sequenced(id=number, event=event) for number, event in enumerate(events, first)]
