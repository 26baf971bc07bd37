"""The events that all parts of Stockade exchange, and the closed vocabularies they use.

This module is imported by the egress container too, so it stands on the standard library alone. An event is
a value: it is made once, never changed, and travels as one JSON object (`observability.event_json`).

One egress connection makes two `EgressEvent`s with the same `connection`: one when it is decided, one when it
closes. The egress process numbers its events from 1 (`seq`) within one run of the process (`epoch`), so a
reader that comes back can ask for what it missed and can see a gap.

Every event has a size limit, whatever the source of its texts: texts longer than their limit are cut when the event is
made, with a mark that says how long they were, so no later stage (history, streams, spans, logs) needs a limit of its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, TypeAlias

NAME_LIMIT: Final = 320
"""Characters of a name in an event: a host, an address, a rule, a tool."""
SENTENCE_LIMIT: Final = 2000
"""Characters of `detail` and `message`."""
REF_LIMIT: Final = 64
"""Characters of a word in a `CallRef`, which an event carries several of."""
KEY_LIMIT: Final = 160
"""Characters of the tool, prompt or resource in a `CallRef`."""
CALLS_LIMIT: Final = 5
"""References to calls in flight that an event carries; `more_calls` counts the rest."""
DENIED_LIMIT: Final = 20
"""Entries of `CallEvent.denied`."""


class Decision(StrEnum):
    """What was done with a connection."""

    ALLOW = "allow"
    DENY = "deny"
    REPORT = "report"
    """Proxied, though `enforce` would have denied it (modes `report` and `learn`); `reason` says why."""


class Via(StrEnum):
    """The way a connection came to the egress."""

    PROXY = "proxy"
    DIRECT = "direct"
    TCP = "tcp"
    DNS = "dns"


class By(StrEnum):
    """What connections can be grouped by when the most frequent are asked for."""

    HOST = "host"
    BACKEND = "backend"
    RULE = "rule"
    REASON = "reason"
    TOOL = "tool"


class Phase(StrEnum):
    """Which moment of a connection an event reports."""

    DECIDED = "decided"
    PROGRESS = "progress"
    """A proxied connection that is still open: the bytes it has transferred so far."""
    CLOSED = "closed"
    COUNTED = "counted"
    """Attempts the kernel refused before the egress saw them; only `count` and the door's counters are known."""


class Reason(StrEnum):
    """Why a connection was denied, cut or failed. The same word in every place a person or a machine reads it."""

    # the policy, by name and port
    EMPTY_POLICY = "empty_policy"
    HOST_NOT_ALLOWED = "host_not_allowed"
    PORT_NOT_ALLOWED = "port_not_allowed"
    IP_NOT_ALLOWED = "ip_not_allowed"
    """The request names an IP address and no IP or CIDR rule has it."""
    DIRECT_ATTEMPT = "direct_attempt"
    """A connection or lookup that ignored the proxy, where `direct: allow` is off or does not fit it."""
    # the policy, by resolved address
    ADDRESS_LOOPBACK = "address_loopback"
    ADDRESS_PRIVATE = "address_private"
    ADDRESS_LINK_LOCAL = "address_link_local"
    ADDRESS_METADATA = "address_metadata"
    ADDRESS_CGNAT = "address_cgnat"
    ADDRESS_MULTICAST = "address_multicast"
    ADDRESS_RESERVED = "address_reserved"
    ADDRESS_EMBEDDED = "address_embedded"
    """An IPv4 address inside IPv6 (NAT64, 6to4, Teredo, mapped, compatible, ISATAP)."""
    ADDRESS_HOST = "address_host"
    """An address of the machine that runs the engine; only `host.docker.internal` opens it."""
    ADDRESS_SELF = "address_self"
    """The egress itself or the gateway's own ports; nothing opens these."""
    # what the caller sent
    BAD_REQUEST = "bad_request"
    HTTPS_WITHOUT_CONNECT = "https_without_connect"
    """An https URL in the request line of the proxy, as old versions of axios send it."""
    TOO_LARGE = "too_large"
    SNI_MISMATCH = "sni_mismatch"
    SNI_MISSING = "sni_missing"
    INNER_HOST_MISMATCH = "inner_host_mismatch"
    NOT_TLS = "not_tls"
    # limits
    LIMIT_CONNECTIONS = "limit_connections"
    LIMIT_RATE = "limit_rate"
    LIMIT_DNS = "limit_dns"
    HEAD_TIMEOUT = "head_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    # the outside
    DNS_FAILED = "dns_failed"
    CONNECT_FAILED = "connect_failed"
    CONNECT_TIMEOUT = "connect_timeout"
    HOST_LOOPBACK_ONLY = "host_loopback_only"
    """The host's service listens on 127.0.0.1 only, so no container can reach it."""
    UPSTREAM_INVALID = "upstream_invalid"
    """The server outside answered with something that is not well-formed HTTP."""
    UPSTREAM_PROXY_FAILED = "upstream_proxy_failed"
    # end of the process or of the policy
    POLICY_REVOKED = "policy_revoked"
    """A live connection was cut because the policy no longer allows it."""
    DOOR_CLOSED = "door_closed"
    SHUTDOWN = "shutdown"


class Certainty(StrEnum):
    """How sure it is that a call made a connection."""

    CERTAIN = "certain"
    PROBABLE = "probable"


def cut(text: str, limit: int) -> str:
    """The text; where it is longer than `limit` characters, its beginning and how long it was."""
    if len(text) <= limit:
        return text
    mark = f"… [{len(text)} characters]"
    return text[: limit - len(mark)] + mark


class Bounded:
    """What an event is made of: each of its texts is cut to its limit."""

    __slots__ = ()

    def __post_init__(self) -> None:
        texts, least, limits = _LIMITS[type(self)]
        if max(map(len, texts(self))) <= least:  # as nearly always: events are made on hot paths
            return
        for name, limit in limits.items():
            text = getattr(self, name)
            if len(text) > limit:
                object.__setattr__(self, name, cut(text, limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRef(Bounded):
    """An MCP request that was in flight on a backend when a connection was decided."""

    request_id: str
    method: str
    tool: str = ""
    """The tool (or prompt, or resource) as the backend names it; empty where the method has none."""
    client: str = ""
    trace_id: str = ""
    """32 hex digits, or empty when the request was not traced."""
    span_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressEvent(Bounded):
    """One moment of one egress connection, made by the egress process."""

    seq: int
    epoch: str
    phase: Phase
    time: float
    """Unix time in seconds."""
    connection: int
    """Joins the events of one connection within one epoch."""
    backend: str
    door: str = ""
    """The door's id: the backend's name, or `NAME/SESSION` for a `per-client` backend."""
    via: Via = Via.PROXY
    method: str = ""
    """`CONNECT`, an HTTP method, `TCP`, `UDP`, or the DNS query type (`A`, `AAAA`, …)."""
    host: str = ""
    """Canonical host as the caller named it. Text that an attacker chose: at most 253 characters, never a label."""
    port: int = 0
    client_address: str = ""
    """The source address the backend claimed."""
    destination: str = ""
    """`ADDRESS:PORT` the caller dialled, for direct connections."""
    address: str = ""
    """The address dialled by the egress, if any."""
    decision: Decision = Decision.DENY
    reason: Reason | None = None
    """None only for a plain allow."""
    rule: str = ""
    """The rule that decided, as written in the policy."""
    rule_port: int | None = None
    """`port` where the policy names it (so it is bounded as a label), else None. Of a denial too."""
    mode: str = "enforce"
    detail: str = ""
    """One sentence for a person: what was seen, and what to do."""
    bytes_sent: int = 0
    """From the backend to the outside."""
    bytes_received: int = 0
    told_sent: int = 0
    """Of `bytes_sent`, what earlier `PROGRESS` events of this connection already reported."""
    told_received: int = 0
    dns_s: float | None = None
    connect_s: float | None = None
    duration_s: float | None = None
    count: int = 1
    """For `COUNTED`: how many attempts."""
    calls: tuple[CallRef, ...] = ()
    """Filled in by the gateway: the calls in flight, at most `CALLS_LIMIT` of them."""
    more_calls: int = 0
    """How many calls were in flight besides `calls`."""

    def __post_init__(self) -> None:
        Bounded.__post_init__(self)
        if len(self.calls) > CALLS_LIMIT:
            object.__setattr__(self, "more_calls", self.more_calls + len(self.calls) - CALLS_LIMIT)
            object.__setattr__(self, "calls", self.calls[:CALLS_LIMIT])

    @property
    def certainty(self) -> Certainty | None:
        """Certain when exactly one call was in flight; None when there was none."""
        if not self.calls:
            return None
        return Certainty.CERTAIN if len(self.calls) + self.more_calls == 1 else Certainty.PROBABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent(Bounded):
    """An MCP request that the gateway answered."""

    time: float
    request_id: str
    method: str
    backend: str
    client: str
    tool: str = ""
    """Known names only; a name that no backend has is `_other`."""
    duration_s: float = 0.0
    error: str = ""
    """`error.type`: empty, `tool_error`, a JSON-RPC code, or our own word."""
    protocol_version: str = ""
    transport: str = ""
    """How the backend was reached: `pipe` or `tcp`."""
    denied: tuple[str, ...] = ()
    """`HOST:PORT (reason)` for each egress denial attributed to this call, at most `DENIED_LIMIT`."""

    def __post_init__(self) -> None:
        Bounded.__post_init__(self)
        if self.denied:
            object.__setattr__(self, "denied", tuple(cut(text, NAME_LIMIT) for text in _few(self.denied)))


def _few(denied: tuple[str, ...]) -> tuple[str, ...]:
    if len(denied) <= DENIED_LIMIT:
        return denied
    kept = denied[: DENIED_LIMIT - 1]
    return (*kept, f"and {len(denied) - len(kept)} more")


class BackendState(StrEnum):
    """The state of a backend."""

    STOPPED = "stopped"
    BUILDING = "building"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPING = "stopping"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEvent(Bounded):
    """A backend changed its state."""

    time: float
    backend: str
    state: BackendState
    detail: str = ""


class ToolChange(StrEnum):
    """What happened to a tool in a client's view."""

    FILTERED = "filtered"
    """A call to a tool that the client may not see was refused."""
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    """The pinned definition no longer matches."""
    HIDDEN = "hidden"
    APPROVED = "approved"
    RENAMED = "renamed"
    """Two backends offered one name, so it got a prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEvent(Bounded):
    """A change to a tool that an operator should be able to see."""

    time: float
    backend: str
    tool: str
    change: ToolChange
    client: str = ""
    detail: str = ""


class Severity(StrEnum):
    """How serious a notice is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeEvent(Bounded):
    """A plain sentence about the gateway itself (a listener taken, a gap in the stream, a reload)."""

    time: float
    source: str
    """`egress`, `door`, `config`, `runtime`, `probe`, …"""
    code: str
    """A short fixed word: `egress_started`, `listener_taken`, `events_dropped`, `config_reloaded`, …"""
    severity: Severity = Severity.INFO
    backend: str = ""
    message: str = ""
    count: int = 1


def notice(
    source: str,
    code: str,
    message: str,
    severity: Severity = Severity.INFO,
    *,
    backend: str = "",
    count: int = 1,
    at: float | None = None,
) -> NoticeEvent:
    """A notice of `source`, dated now unless `at` (seconds since the epoch) says otherwise."""
    return NoticeEvent(
        time=time.time() if at is None else at,
        source=source,
        code=code,
        severity=severity,
        backend=backend,
        message=message,
        count=count,
    )


def _limit(kind: type[Any], name: str) -> int:
    if name in ("detail", "message"):
        return SENTENCE_LIMIT
    if kind is CallRef:
        return KEY_LIMIT if name == "tool" else REF_LIMIT
    return NAME_LIMIT


_Limits: TypeAlias = tuple[Callable[[Any], tuple[str, ...]], int, dict[str, int]]


def _limits(kind: type[Any]) -> _Limits:
    limits = {one.name: _limit(kind, one.name) for one in dataclasses.fields(kind) if one.type == "str"}
    return attrgetter(*limits), min(limits.values()), limits


_LIMITS: Final[dict[type[Any], _Limits]] = {
    kind: _limits(kind) for kind in (CallRef, EgressEvent, CallEvent, BackendEvent, ToolEvent, NoticeEvent)
}
"""Of each class: what takes its texts, the least of their limits, and the limit of each."""

Event: TypeAlias = EgressEvent | CallEvent | BackendEvent | ToolEvent | NoticeEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequenced:
    """An event with the number that the gateway's hub gave it (rising, never reused within one history)."""

    id: int
    event: Event
