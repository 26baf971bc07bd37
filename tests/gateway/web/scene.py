"""A believable afternoon of a small team, for the tests of the page and for its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.runtime.supervise.status import BackendStatus
from observability.events import (
    BackendState,
    CallEvent,
    CallRef,
    Decision,
    EgressEvent,
    Event,
    Phase,
    Reason,
    Via,
)

EPOCH = "3f9c2a7d"

CONFIG = """\
# Servers of the platform team. Ask in #platform before you open anything.
version: 1
mcpServers:
  fetch:
    command: uvx
    args: [mcp-server-fetch]
    network:
      allowed_hosts: [api.github.com, .githubusercontent.com]   # what the docs need
      allowed_ports: [443]
  github:
    command: npx
    args: ["-y", "@modelcontextprotocol/server-github"]
    env:
      GITHUB_PERSONAL_ACCESS_TOKEN: ${secret:github-token}
    network:
      allowed_hosts: [api.github.com]
  tickets:
    command: npx
    args: ["-y", "@acme/tickets-mcp"]
    network:
      allowed_hosts: [tickets.acme.dev]
  time:
    command: uvx
    args: [mcp-server-time]
  postgres:
    command: uvx
    args: [postgres-mcp]
    network:
      allowed_hosts:
        - {host: db.internal, ports: [5432], private: true, protocol: tcp}
clients:
  cursor:
    token_sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    servers: [fetch, github, time]
    tools: {deny: ["*delete*"]}
"""


def status(name: str, **more: Any) -> BackendStatus:
    """A server as the supervisor shows it."""
    common: dict[str, Any] = {
        "state": BackendState.RUNNING,
        "detail": "",
        "transport": "stdio",
        "isolated": True,
        "image": "",
        "containers": (),
        "restarts": 0,
        "since": 0.0,
    }
    return BackendStatus(**{"name": name, **common, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that a backend printed."""

    time: float
    text: str
    stream: str = "stderr"
    instance: str = ""


def statuses(now: float) -> list[BackendStatus]:
    return [
        status("fetch", image="stockade/uvx-mcp-server-fetch:2025.4.7", since=now - 8040),
        status("github", image="stockade/npx-server-github:2025.4.8", since=now - 8041, restarts=1),
        status("tickets", image="stockade/npx-tickets-mcp:1.9.0", since=now - 2520),
        status("time", image="stockade/uvx-mcp-server-time:2025.9.1", since=now - 8037),
        status("postgres", image="stockade/uvx-postgres-mcp:0.3.0", state=BackendState.STARTING, since=now - 4),
    ]


LOG = (
    "tickets-mcp 1.9.0, Node v22.14.0",
    "listening on stdio",
    "\x1b[32minfo\x1b[0m  client connected: cursor 1.4.2",
    "\x1b[32minfo\x1b[0m  tools/list -> 7 tools",
    '\x1b[32minfo\x1b[0m  tools/call search_tickets {"query": "login loop"}',
    "\x1b[32minfo\x1b[0m  GET https://tickets.acme.dev/api/v2/search?q=login+loop 200 in 212 ms",
    "\x1b[33mwarn\x1b[0m  telemetry: POST https://t.metrics-hub.io/v1/batch failed: 403 host_not_allowed",
    "\x1b[33mwarn\x1b[0m  telemetry: will retry in 30 s",
    '\x1b[32minfo\x1b[0m  tools/call get_ticket {"id": "LOGIN-482"}',
    "\x1b[31merror\x1b[0m attachment screenshot.png: fetch failed",
    "        cause: connect ECONNREFUSED 185.199.108.133:443",
    "\x1b[33mwarn\x1b[0m  telemetry: POST https://t.metrics-hub.io/v1/batch failed: 403 host_not_allowed",
)


def log_lines(now: float) -> list[Line]:
    return [Line(time=now - 180 + 14 * n, text=text) for n, text in enumerate(LOG)]


TOOLS: dict[str, list[dict[str, Any]]] = {
    "fetch": [
        {"name": "fetch", "description": "Fetches a URL from the internet and gives its contents as markdown."}
    ],
    "tickets": [
        {"name": "search_tickets", "description": "Search the tracker by words."},
        {"name": "get_ticket", "description": "One ticket with its comments and attachments."},
    ],
}


@dataclass(slots=True)
class Story:
    """Makes events with rising numbers and times."""

    now: float
    seq: int = 0
    connection: int = 0
    calls: int = 0
    told: list[Event] = field(default_factory=list)

    def call(self, tool: str, client: str = "cursor", method: str = "tools/call") -> CallRef:
        self.calls += 1
        return CallRef(
            request_id=str(self.calls),
            method=method,
            tool=tool,
            client=client,
            trace_id=f"{self.calls * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}",
        )

    def connect(
        self,
        ago: float,
        backend: str,
        host: str,
        port: int = 443,
        reason: Reason | None = None,
        *,
        calls: tuple[CallRef, ...] = (),
        sent: int = 0,
        got: int = 0,
        lasted: float | None = 0.3,
        **more: Any,
    ) -> list[EgressEvent]:
        """One connection: decided, and closed unless it was denied or `lasted` is None."""
        self.connection += 1
        decision = more.pop("decision", Decision.DENY if reason else Decision.ALLOW)
        method = more.pop("method", "CONNECT")
        common: dict[str, Any] = {
            "epoch": EPOCH, "connection": self.connection, "backend": backend, "door": backend, "host": host,
            "port": port, "decision": decision, "reason": reason, "method": method, "calls": calls, **more,
        }  # fmt: skip
        made = [EgressEvent(seq=self._number(), phase=Phase.DECIDED, time=self.now - ago, **common)]
        if decision is not Decision.DENY and lasted is not None:
            ends = {
                "bytes_sent": sent,
                "bytes_received": got,
                "duration_s": lasted,
                "connect_s": 0.021,
                "dns_s": 0.004,
            }
            closed = EgressEvent(
                seq=self._number(), phase=Phase.CLOSED, time=self.now - ago + lasted, **{**common, **ends}
            )
            made.append(closed)
        self.told += made
        return made

    def _number(self) -> int:
        self.seq += 1
        return self.seq


def afternoon(now: float) -> list[Event]:
    """What happened until now, oldest first."""
    story = Story(now)
    for round_ in range(6):
        _round(story, 1500 - 260 * round_)
    _attention(story)
    events = sorted(story.told, key=lambda event: event.time)
    call = CallEvent(
        time=now - 3, request_id="1", method="tools/call", backend="fetch", client="cursor", tool="fetch"
    )
    return [*events, call]


def _round(story: Story, ago: float) -> None:
    github: dict[str, Any]
    raw: dict[str, Any]
    github, raw = {"rule": "api.github.com"}, {"rule": ".githubusercontent.com"}
    fetch = (story.call("fetch"),)
    search = (story.call("search_repositories", "claude-code"),)
    story.connect(ago, "fetch", "api.github.com", sent=1840, got=48_211, calls=fetch, **github)
    story.connect(ago - 2, "fetch", "raw.githubusercontent.com", sent=912, got=218_400, calls=fetch, **raw)
    story.connect(ago - 31, "github", "api.github.com", sent=3120, got=96_020, calls=search, lasted=1.2, **github)
    both = (story.call("search_tickets"), story.call("get_ticket"))
    story.connect(
        ago - 44, "tickets", "tickets.acme.dev", sent=2201, got=15_730, calls=both[:1], rule="tickets.acme.dev"
    )
    story.connect(ago - 45, "tickets", "t.metrics-hub.io", reason=Reason.HOST_NOT_ALLOWED, calls=both)
    story.connect(ago - 75, "github", "api.github.com", sent=610, got=2048, calls=search, **github)


def _attention(story: Story) -> None:
    fetch = (story.call("fetch"),)
    ticket = (story.call("get_ticket"),)
    story.connect(
        61,
        "tickets",
        "",
        443,
        Reason.DIRECT_ATTEMPT,
        via=Via.DIRECT,
        method="TCP",
        destination="185.199.108.133:443",
        calls=ticket,
    )
    story.connect(
        61.4, "tickets", "user-images.acme-cdn.net", 0, Reason.DIRECT_ATTEMPT, via=Via.DNS, method="A", calls=ticket
    )
    story.connect(
        61.2,
        "tickets",
        "user-images.acme-cdn.net",
        0,
        Reason.DIRECT_ATTEMPT,
        via=Via.DNS,
        method="AAAA",
        calls=ticket,
    )
    story.connect(52, "fetch", "docs.python.org", reason=Reason.HOST_NOT_ALLOWED, calls=fetch)
    story.connect(47, "fetch", "docs.python.org", reason=Reason.HOST_NOT_ALLOWED, calls=fetch)
    story.connect(40, "fetch", "api.github.com", 80, Reason.PORT_NOT_ALLOWED, calls=fetch, method="GET")
    story.connect(36, "fetch", "metadata.google.internal", 80, Reason.HOST_NOT_ALLOWED, calls=(), method="GET")
    story.connect(33, "fetch", "169.254.169.254", 80, Reason.ADDRESS_METADATA, method="GET", calls=fetch)
    story.connect(
        28, "tickets",
        "api.github.com.login-session-a81f03c2e4d94b7f.telemetry-cdn.example",
        reason=Reason.HOST_NOT_ALLOWED, calls=ticket,
    )  # fmt: skip
    story.connect(22, "tickets", "tickets.acme.dev", reason=Reason.SNI_MISMATCH, rule="tickets.acme.dev")
    story.connect(
        15,
        "github",
        "api.github.com",
        sent=801,
        got=8_240,
        rule="api.github.com",
        calls=(story.call("get_issue", "claude-code"),),
    )
    story.connect(
        9, "fetch", "codeload.githubusercontent.com", rule=".githubusercontent.com", calls=fetch, lasted=None
    )
    story.connect(
        3,
        "postgres",
        "db.internal",
        5432,
        Reason.CONNECT_FAILED,
        decision=Decision.ALLOW,
        via=Via.TCP,
        method="TCP",
        rule="db.internal:5432",
        lasted=0.01,
    )


def direct(now: float) -> Iterator[Event]:
    """A server that goes around the proxy, once more."""
    story = Story(now, seq=900, connection=900)
    yield from story.connect(
        0, "tickets", "", 443, Reason.DIRECT_ATTEMPT, via=Via.DIRECT, method="TCP", destination="203.0.113.7:443"
    )
