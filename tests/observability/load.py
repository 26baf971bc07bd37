"""A plausible day of a gateway, squeezed into rounds: feed a few with a scrape between them."""

from __future__ import annotations

from itertools import count

from observability.events import BackendEvent, BackendState, Decision, NoticeEvent, Reason, ToolChange, ToolEvent, Via
from observability.hub import Hub
from observability.instruments import Instruments
from tests.observability.samples import allowed, closed, decided

BACKENDS = ("fetch", "time", "everything")
RULES = {"fetch": ("api.github.com", ".githubusercontent.com"), "time": ("never.example",), "everything": ()}


class Load:
    """Feeds a hub with the events of three backends and two clients."""

    def __init__(self, hub: Hub, instruments: Instruments) -> None:
        self._hub = hub
        self.instruments = instruments
        self._connections = count(1)
        instruments.known(backends=BACKENDS, rules=RULES, clients=("cursor", "claude"))
        for backend, tool in (("fetch", "fetch"), ("time", "convert_time"), ("everything", "echo")):
            instruments.known_tools(backend, [tool])
            self._state(backend, BackendState.STARTING)
            self._state(backend, BackendState.RUNNING)

    def _state(self, backend: str, state: BackendState) -> None:
        self._hub.publish(BackendEvent(time=1.0, backend=backend, state=state))

    def round(self) -> None:
        """Some of everything: carried, denied, reported, direct; calls of both clients; a restart; a drop."""
        for _ in range(3):
            self._carried("api.github.com")
        self._hub.publish(allowed(next(self._connections)))  # stays open
        self._hub.publish(decided(next(self._connections), reason=Reason.PORT_NOT_ALLOWED, port=80))
        direct = decided(next(self._connections), backend="everything", via=Via.DIRECT, reason=Reason.DIRECT_ATTEMPT)
        self._hub.publish(direct)
        self._reported()
        self._calls()
        self._state("everything", BackendState.BACKOFF)
        self._state("everything", BackendState.STARTING)
        self._state("everything", BackendState.RUNNING)
        self._hub.publish(NoticeEvent(time=1.0, source="egress", code="events_dropped", count=2))
        hidden = ToolEvent(time=1.0, backend="fetch", tool="fetch", change=ToolChange.FILTERED, client="cursor")
        self._hub.publish(hidden)

    def deny_burst(self, backend: str = "fetch", attempts: int = 40) -> None:
        for _ in range(attempts):
            self._hub.publish(decided(next(self._connections), backend=backend))

    def once(self, rule: str, port: int) -> None:
        """One connection on a port that was never used before."""
        self._hub.publish(allowed(next(self._connections), rule=rule, port=port, rule_port=port))

    def _carried(self, rule: str) -> None:
        connection = next(self._connections)
        self._hub.publish(allowed(connection, rule=rule))
        self._hub.publish(closed(connection, rule=rule))

    def _reported(self) -> None:
        connection = next(self._connections)
        report = {"backend": "time", "decision": Decision.REPORT, "reason": Reason.HOST_NOT_ALLOWED, "rule": ""}
        self._hub.publish(allowed(connection, **report))
        self._hub.publish(closed(connection, **report))

    def _calls(self) -> None:
        for backend, tool, client in (("fetch", "fetch", "cursor"), ("time", "convert_time", "claude")):
            for error, duration_s in (("", 0.03), ("", 0.4), ("tool_error", 1.5)):
                self.instruments.observe_call(
                    method="tools/call",
                    tool=tool,
                    backend=backend,
                    client=client,
                    error=error,
                    duration_s=duration_s,
                    transport="tcp",
                )
                self.instruments.observe_client_call(
                    method="tools/call", backend=backend, error=error, duration_s=duration_s, transport="pipe"
                )
        self.instruments.session_closed(client="cursor", protocol_version="2025-11-25", duration_s=30.0)
