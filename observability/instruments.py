"""Stockade's instruments: they turn events into the numbers of `observability.metrics`.

`on_event` is a sink of the hub. Calls are *not* counted from `CallEvent`: the MCP endpoint calls the `Meters`
methods itself, on its hot path, whether or not an event is made of the call. All methods run on the event loop's
thread; `expose` and `families` may run on any.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final, Protocol, assert_never

from observability import metrics
from observability.events import (
    BackendEvent,
    BackendState,
    CallEvent,
    Decision,
    EgressEvent,
    Event,
    NoticeEvent,
    Phase,
    Reason,
    Sequenced,
    ToolChange,
    ToolEvent,
    Via,
)
from observability.exposition import CONTENT_TYPE, render
from observability.labels import METHODS, PROTOCOL_VERSIONS, SOURCES, TRANSPORTS, Vocabulary, fit_for_labels, one_of
from observability.metrics import AnyFamily, Family, HistogramFamily
from observability.semconv import LABEL_BACKEND, OTHER

_COMMON_DENIALS: Final = (
    Reason.EMPTY_POLICY,
    Reason.HOST_NOT_ALLOWED,
    Reason.PORT_NOT_ALLOWED,
    Reason.IP_NOT_ALLOWED,
    Reason.DIRECT_ATTEMPT,
    Reason.ADDRESS_PRIVATE,
)
_CUT: Final = frozenset(
    {
        Reason.SNI_MISMATCH,
        Reason.SNI_MISSING,
        Reason.INNER_HOST_MISMATCH,
        Reason.NOT_TLS,
        Reason.POLICY_REVOKED,
    }
)
"""Reasons to end a connection that was carried: decisions of the policy too, so they count as denials."""
_TRACKED_CONNECTIONS: Final = 200_000


class Meters(Protocol):
    """What the MCP endpoint reports as it works. Names outside the configuration become `_other`."""

    def observe_call(
        self, *, method: str, tool: str, backend: str, client: str, error: str, duration_s: float, transport: str
    ) -> None:
        """A client's request was answered. `tool` is the backend's name of it; `error` is `error.type` or empty."""
        ...

    def observe_client_call(
        self, *, method: str, backend: str, error: str, duration_s: float, transport: str
    ) -> None:
        """A backend answered a request of the gateway (or failed to). `transport` is `pipe` or `tcp`."""
        ...

    def session_closed(self, *, client: str, protocol_version: str, duration_s: float) -> None:
        """A session of a revision before 2026-07-28 ended."""
        ...


class Instruments:
    """All of Stockade's metrics; implements `Meters`."""

    content_type: Final = CONTENT_TYPE

    def __init__(self, *, resource: Mapping[str, str] | None = None) -> None:
        """`resource` (OpenTelemetry resource attributes, e.g. `telemetry.resource_attributes()`) is `target_info`."""
        self.resource: Mapping[str, str] = resource or {"service.name": "stockade"}
        self._words = Vocabulary()
        self._open: dict[tuple[str, int], tuple[str, Reason | None]] = {}
        self._epoch = ""
        self._may_restart: set[str] = set()
        self._server_duration = HistogramFamily(metrics.SERVER_DURATION)
        self._client_duration = HistogramFamily(metrics.CLIENT_DURATION)
        self._session_duration = HistogramFamily(metrics.SESSION_DURATION)
        self._connections = Family(metrics.CONNECTIONS)
        self._active = Family(metrics.ACTIVE)
        self._connection_duration = HistogramFamily(metrics.CONNECTION_DURATION)
        self._dns_duration = HistogramFamily(metrics.DNS_DURATION)
        self._io = Family(metrics.IO)
        self._rule_info = Family(metrics.RULE_INFO)
        self._tools_filtered = Family(metrics.TOOLS_FILTERED)
        self._backend_up = Family(metrics.BACKEND_UP)
        self._backend_restarts = Family(metrics.BACKEND_RESTARTS)
        self._reload_success = Family(metrics.RELOAD_SUCCESS)
        self._events_dropped = Family(metrics.EVENTS_DROPPED)
        self._reload_success.set((), 1)
        for source in SOURCES:
            self._events_dropped.start((source,))

    @property
    def families(self) -> tuple[AnyFamily, ...]:
        """Every metric, in the order of `metrics.DEFINITIONS`."""
        return (
            self._server_duration,
            self._client_duration,
            self._session_duration,
            self._connections,
            self._active,
            self._connection_duration,
            self._dns_duration,
            self._io,
            self._rule_info,
            self._tools_filtered,
            self._backend_up,
            self._backend_restarts,
            self._reload_success,
            self._events_dropped,
        )

    def expose(self) -> bytes:
        """`/metrics`, in Prometheus' text format; serve it with `content_type`."""
        return render(self.families, self.resource)

    # what the configuration names

    def known(
        self,
        *,
        backends: Collection[str],
        rules: Mapping[str, Collection[str]],
        clients: Collection[str],
        ports: Mapping[str, Collection[int]] | None = None,
        tools: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Sets which names may be labels from now on; call it on every applied configuration, before its policies
        are pushed. Series of backends that are gone are forgotten.

        `rules` and `ports` map a backend to the rule texts and the ports of its policy. `ports=None` trusts
        `EgressEvent.rule_port`, but then a port's series begins with its first connection and not at 0.
        `tools=None` keeps what `known_tools` said of each backend that stays.
        """
        self._words.backends = frozenset(backends)
        self._words.clients = frozenset(clients)
        self._words.rules = {backend: frozenset(texts) for backend, texts in rules.items()}
        self._words.ports = {backend: frozenset(numbers) for backend, numbers in (ports or {}).items()}
        kept = self._words.tools if tools is None else tools
        self._words.tools = {name: fit_for_labels(kept.get(name, ())) for name in backends}
        self._forget_backends()
        self._start_series()

    def known_tools(self, backend: str, tools: Collection[str]) -> None:
        """The tools a backend offers now, by its own names."""
        if backend in self._words.backends:
            self._words.tools[backend] = fit_for_labels(tools)

    def _forget_backends(self) -> None:
        keep = self._words.backends | {"", OTHER}
        for family in self.families:
            if LABEL_BACKEND in family.definition.labels:
                index = family.definition.labels.index(LABEL_BACKEND)
                family.keep(lambda labels, index=index: labels[index] in keep)  # type: ignore[misc]
        self._may_restart &= self._words.backends
        self._open = {key: open_ for key, open_ in self._open.items() if open_[0] in keep}

    def _start_series(self) -> None:
        pairs = [(backend, rule) for backend, rules in self._words.rules.items() for rule in sorted(rules)]
        self._rule_info.replace(dict.fromkeys(pairs, 1))
        for backend in sorted(self._words.backends):
            self._backend_up.start((backend,))
            self._backend_restarts.start((backend,))
            self._active.start((backend,))
            self._io.start((backend, "transmit"))
            self._io.start((backend, "receive"))
            for port in self._words.few_ports(backend):
                self._start_connections(backend, port)

    def _start_connections(self, backend: str, port: str) -> None:
        for rule in sorted(self._words.rules.get(backend, ())):
            self._connections.start((backend, Decision.ALLOW, rule, "", port))
        for reason in _COMMON_DENIALS:
            self._connections.start((backend, Decision.DENY, "", reason, port))

    # events

    def on_sequenced(self, item: Sequenced) -> None:
        """The hub's sink."""
        self.on_event(item.event)

    def on_event(self, event: Event) -> None:
        match event:
            case EgressEvent():
                self._on_egress(event)
            case BackendEvent():
                self._on_backend(event)
            case ToolEvent():
                if event.change is ToolChange.FILTERED:
                    labels = (self._words.backend(event.backend), self._words.client(event.client))
                    self._tools_filtered.add(labels)
            case NoticeEvent():
                self._on_notice(event)
            case CallEvent():
                pass
            case _:
                assert_never(event)

    def reloaded(self, success: bool) -> None:
        """The configuration was read again and applied, or refused."""
        self._reload_success.set((), int(success))

    def events_dropped(self, source: str, count: int = 1) -> None:
        """Events were lost at `egress`, `gateway`, `hub` or `history`."""
        self._events_dropped.add((one_of(source, SOURCES),), count)

    def _on_notice(self, event: NoticeEvent) -> None:
        match event.code:
            case "events_dropped":
                self.events_dropped(event.source, event.count)
            case "config_reloaded":
                self.reloaded(True)
            case "config_rejected" | "config_reload_failed":
                self.reloaded(False)
            case _:
                pass

    def _on_backend(self, event: BackendEvent) -> None:
        backend = event.backend
        if backend not in self._words.backends:
            return
        self._backend_up.set((backend,), int(event.state in {BackendState.RUNNING, BackendState.REMOTE}))
        match event.state:
            case BackendState.STARTING:
                if backend in self._may_restart:
                    self._backend_restarts.add((backend,))
                self._may_restart.discard(backend)
            case BackendState.RUNNING | BackendState.BACKOFF | BackendState.FAILED:
                self._may_restart.add(backend)
            case BackendState.STOPPED:
                self._may_restart.discard(backend)
            case BackendState.BUILDING | BackendState.STOPPING | BackendState.REMOTE:
                pass
            case _:
                assert_never(event.state)

    def _on_egress(self, event: EgressEvent) -> None:
        if event.via is Via.DNS:
            return  # a lookup alone is no connection, and programs look names up before they use the proxy
        if event.epoch != self._epoch:
            self._start_epoch(event.epoch)
        match event.phase:
            case Phase.DECIDED:
                self._decided(event)
            case Phase.PROGRESS:
                self._moved(event)
            case Phase.CLOSED:
                self._closed(event)
            case Phase.COUNTED:
                self._count(event)
            case _:
                assert_never(event.phase)

    def _start_epoch(self, epoch: str) -> None:
        """The egress was restarted: every connection of the old process is cut."""
        self._epoch = epoch
        self._open.clear()
        self._active.clear()

    def _count(self, event: EgressEvent) -> None:
        backend = self._words.backend(event.backend)
        rule = self._words.rule(event.backend, event.rule)
        port = self._words.port(event.backend, event.rule_port)
        self._connections.add((backend, event.decision, rule, event.reason or "", port), event.count)

    def _decided(self, event: EgressEvent) -> None:
        self._count(event)
        backend = self._words.backend(event.backend)
        if event.dns_s is not None:
            self._dns_duration.observe((backend,), event.dns_s)
        key = (event.epoch, event.connection)
        if event.decision is Decision.DENY or key in self._open or len(self._open) >= _TRACKED_CONNECTIONS:
            return
        self._open[key] = (backend, event.reason)
        self._active.add((backend,))

    def _moved(self, event: EgressEvent) -> None:
        """Each byte counts once: a long transfer is reported while it runs."""
        backend = self._words.backend(event.backend)
        self._io.add((backend, "transmit"), event.bytes_sent - event.told_sent)
        self._io.add((backend, "receive"), event.bytes_received - event.told_received)

    def _closed(self, event: EgressEvent) -> None:
        opened = self._open.pop((event.epoch, event.connection), None)
        backend = self._words.backend(event.backend)
        self._moved(event)
        if opened is None:
            return
        label, reported = opened
        self._active.add((label,), -1)
        if event.duration_s is not None:
            self._connection_duration.observe((backend,), event.duration_s)
        if event.decision is Decision.DENY or (event.reason in _CUT and event.reason is not reported):
            self._count(replace(event, decision=Decision.DENY))

    # Meters

    def observe_call(
        self, *, method: str, tool: str, backend: str, client: str, error: str, duration_s: float, transport: str
    ) -> None:
        words = self._words
        self._server_duration.observe(
            (
                one_of(method, METHODS),
                words.tool(backend, tool),
                words.error(error),
                one_of(transport, TRANSPORTS),
                words.backend(backend),
                words.client(client),
            ),
            duration_s,
        )

    def observe_client_call(
        self, *, method: str, backend: str, error: str, duration_s: float, transport: str
    ) -> None:
        words = self._words
        self._client_duration.observe(
            (one_of(method, METHODS), words.error(error), one_of(transport, TRANSPORTS), words.backend(backend)),
            duration_s,
        )

    def session_closed(self, *, client: str, protocol_version: str, duration_s: float) -> None:
        labels = (one_of(protocol_version, PROTOCOL_VERSIONS), self._words.client(client))
        self._session_duration.observe(labels, duration_s)
