"""Spans: of each MCP request, towards the client and towards the backend, and of each egress connection.

A backend does not carry trace context through CONNECT, so a connection's span is a root of its own with a *link*
to each request that was in flight on that backend; `stockade.egress.call.certainty` on the link says `certain`
when there was exactly one. Requests take their parent from `params._meta` (MCP SEP-414: `traceparent`,
`tracestate`, `baggage`, unprefixed); the HTTP request's own context is a link.

Every function takes `tracer=None` for "no exporter"; the cost is then one comparison.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.util.types import AttributeValue

from observability import semconv
from observability.events import (
    KEY_LIMIT,
    CallRef,
    Certainty,
    Decision,
    EgressEvent,
    Phase,
    Reason,
    Sequenced,
    Via,
    cut,
)
from observability.text import encodable

Attributes: TypeAlias = dict[str, AttributeValue]

NO_SPAN: Final = trace.INVALID_SPAN
_ROOT: Final = Context()
_CONTEXT_KEYS: Final = ("traceparent", "tracestate", "baggage")
_OPEN_LIMIT: Final = 20_000
ATTRIBUTE_LIMIT: Final = 1000
"""Characters of a span's attribute: a client chooses the URIs that it reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInfo:
    """The attributes of a request's span; empty fields are left out."""

    method: str
    """A method that MCP knows, else `_other` (it is in the span's name)."""
    tool: str = ""
    """A tool that a backend has, else `_other`."""
    prompt: str = ""
    resource_uri: str = ""
    request_id: str = ""
    backend: str = ""
    client: str = ""
    protocol_version: str = ""
    session_id: str = ""
    transport: str = ""
    """`tcp` or `pipe`."""
    peer_address: str = ""
    """Of the client (server span) or of the backend (client span)."""
    peer_port: int = 0


def server_span(
    tracer: Tracer | None,
    call: CallInfo,
    *,
    meta: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Span:
    """Starts the span of a client's request. Its parent is the context in `meta` (`params._meta`); the context in
    the HTTP `headers` (lower-case names) becomes a link. End it with `finish`.
    """
    if tracer is None:
        return NO_SPAN
    return tracer.start_span(
        _call_name(call),
        context=_context_in(meta),
        kind=SpanKind.SERVER,
        attributes=_call_attributes(call, semconv.CLIENT_ADDRESS, semconv.CLIENT_PORT),
        links=_links_in(headers),
    )


def client_span(tracer: Tracer | None, call: CallInfo, *, parent: Span) -> Span:
    """Starts the span of the request to a backend that `parent` causes."""
    if tracer is None:
        return NO_SPAN
    return tracer.start_span(
        _call_name(call),
        context=trace.set_span_in_context(parent, _ROOT),
        kind=SpanKind.CLIENT,
        attributes=_call_attributes(call, semconv.SERVER_ADDRESS, semconv.SERVER_PORT),
    )


def finish(span: Span, *, error: str = "", status_code: int | None = None, description: str = "") -> None:
    """Ends a request's span. `error` is `error.type` (`tool_error` for an `isError` result), `status_code` the
    JSON-RPC error's code.
    """
    if error and span.is_recording():
        span.set_attribute(semconv.ERROR_TYPE, encodable(error))
        if status_code is not None:
            span.set_attribute(semconv.RPC_RESPONSE_STATUS_CODE, str(status_code))
        span.set_status(Status(StatusCode.ERROR, cut(encodable(description), ATTRIBUTE_LIMIT) or None))
    span.end()


def inject(span: Span, meta: MutableMapping[str, object]) -> None:
    """Writes the span's context into a request's `_meta`; without a span, what the client sent stays."""
    if not span.get_span_context().is_valid:
        return
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span, _ROOT))
    meta.update(carrier)


def span_ids(span: Span) -> tuple[str, str]:
    """Trace id and span id in hex for `CallRef`, both empty when there is no span."""
    context = span.get_span_context()
    if not context.is_valid:
        return "", ""
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def _context_in(carrier: Mapping[str, object] | None) -> Context:
    if not carrier:
        return _ROOT
    strings = {key: value for key, value in carrier.items() if isinstance(value, str)}
    return propagate.extract(strings, context=_ROOT)


def _links_in(headers: Mapping[str, str] | None) -> list[Link]:
    if not headers or "traceparent" not in headers:
        return []
    carrier = {key: headers[key] for key in _CONTEXT_KEYS if key in headers}
    context = trace.get_current_span(propagate.extract(carrier, context=_ROOT)).get_span_context()
    return [Link(context)] if context.is_valid else []


def _call_name(call: CallInfo) -> str:
    target = cut(encodable(call.tool or call.prompt), KEY_LIMIT)
    return f"{call.method} {target}" if target else call.method


def _call_attributes(call: CallInfo, peer_address: str, peer_port: str) -> Attributes:
    attributes: Attributes = {
        semconv.MCP_METHOD_NAME: call.method,
        semconv.GEN_AI_TOOL_NAME: call.tool,
        semconv.GEN_AI_PROMPT_NAME: call.prompt,
        semconv.GEN_AI_OPERATION_NAME: "execute_tool" if call.method == "tools/call" else "",
        semconv.MCP_RESOURCE_URI: call.resource_uri,
        semconv.JSONRPC_REQUEST_ID: call.request_id,
        semconv.MCP_PROTOCOL_VERSION: call.protocol_version,
        semconv.MCP_SESSION_ID: call.session_id,
        semconv.NETWORK_TRANSPORT: call.transport,
        semconv.BACKEND_NAME: call.backend,
        semconv.CLIENT_NAME: call.client,
        peer_address: call.peer_address,
        peer_port: call.peer_port,
    }
    return _present(attributes)


def _present(attributes: Attributes) -> Attributes:
    return {
        key: cut(encodable(value), ATTRIBUTE_LIMIT) if isinstance(value, str) else value
        for key, value in attributes.items()
        if value not in ("", 0)
    }


# egress


def egress_span(tracer: Tracer | None, event: EgressEvent, *, failure: Reason | None = None) -> None:
    """Makes and ends the span of one connection from its last event (a denial's `DECIDED`, else `CLOSED`).
    `failure` says why it is an error: denied, cut, or the outside failed.

    `CONNECT`, kind SERVER: from the caller's request to the end of the tunnel; a child `dial`, kind CLIENT, where
    the egress connected to a host. The event must carry the `calls` that were in flight when it was decided.
    """
    if tracer is None:
        return
    end = _nanoseconds(event.time)
    start = end - _nanoseconds(event.duration_s or 0.0)
    span = tracer.start_span(
        "CONNECT",
        context=_ROOT,
        kind=SpanKind.SERVER,
        attributes=_egress_attributes(event),
        links=_call_links(event.calls, event.certainty),
        start_time=start,
    )
    if span.is_recording():
        if event.connect_s is not None:
            _dial_span(tracer, span, event, start + _nanoseconds(event.dns_s or 0.0))
        _mark_failure(span, failure, event.detail)
    span.end(end)


def _dial_span(tracer: Tracer, parent: Span, event: EgressEvent, start: int) -> None:
    attributes: Attributes = {
        semconv.SERVER_ADDRESS: event.host,
        semconv.SERVER_PORT: event.port,
        semconv.NETWORK_PEER_ADDRESS: event.address,
        semconv.NETWORK_PEER_PORT: event.port,
        semconv.NETWORK_TRANSPORT: "tcp",
        semconv.BACKEND_NAME: event.backend,
    }
    span = tracer.start_span(
        "dial",
        context=trace.set_span_in_context(parent, _ROOT),
        kind=SpanKind.CLIENT,
        attributes=_present(attributes),
        start_time=start,
    )
    if event.reason in {Reason.CONNECT_FAILED, Reason.CONNECT_TIMEOUT, Reason.HOST_LOOPBACK_ONLY}:
        _mark_failure(span, event.reason, event.detail)
    span.end(start + _nanoseconds(event.connect_s or 0.0))


def _mark_failure(span: Span, failure: Reason | None, detail: str) -> None:
    if failure is not None:
        span.set_attribute(semconv.ERROR_TYPE, failure)
        span.set_status(Status(StatusCode.ERROR, encodable(detail or failure)))


def _egress_attributes(event: EgressEvent) -> Attributes:
    attributes: Attributes = {
        semconv.SERVER_ADDRESS: event.host,
        semconv.SERVER_PORT: event.port,
        semconv.NETWORK_PEER_ADDRESS: event.address,
        semconv.NETWORK_PEER_PORT: event.port if event.address else 0,
        semconv.CLIENT_ADDRESS: event.client_address,
        semconv.NETWORK_TRANSPORT: "udp" if event.method == "UDP" else "tcp",
        semconv.SECURITY_RULE_NAME: event.rule,
        semconv.SECURITY_RULE_RULESET_NAME: event.backend,
        semconv.BACKEND_NAME: event.backend,
        semconv.EGRESS_DECISION: event.decision,
        semconv.EGRESS_REASON: event.reason or "",
        semconv.EGRESS_MODE: event.mode,
        semconv.EGRESS_VIA: event.via,
        semconv.EGRESS_METHOD: event.method,
        semconv.EGRESS_DESTINATION: event.destination,
        semconv.EGRESS_CALL_CERTAINTY: event.certainty or "",
    }
    attributes = _present(attributes)
    attributes[semconv.EGRESS_CONNECTION] = event.connection
    attributes[semconv.EGRESS_BYTES_SENT] = event.bytes_sent
    attributes[semconv.EGRESS_BYTES_RECEIVED] = event.bytes_received
    return attributes


def _call_links(calls: Sequence[CallRef], certainty: Certainty | None) -> list[Link]:
    links = []
    for call in calls:
        if call.trace_id and call.span_id:
            context = SpanContext(
                trace_id=int(call.trace_id, 16),
                span_id=int(call.span_id, 16),
                is_remote=False,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            )
            links.append(Link(context, _link_attributes(call, certainty)))
    return links


def _link_attributes(call: CallRef, certainty: Certainty | None) -> Attributes:
    return _present(
        {
            semconv.EGRESS_CALL_CERTAINTY: certainty or "",
            semconv.JSONRPC_REQUEST_ID: call.request_id,
            semconv.MCP_METHOD_NAME: call.method,
            semconv.GEN_AI_TOOL_NAME: call.tool,
            semconv.CLIENT_NAME: call.client,
        }
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


class EgressSpans:
    """A sink of the hub that makes one span of each connection: a denial's at once, a carried one's when it closes.

    It keeps the calls of open connections (at most 20,000 of them, the oldest forgotten first), since the calls
    in flight at the decision are the ones that matter.
    """

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._open: OrderedDict[tuple[str, int], EgressEvent] = OrderedDict()

    def on_sequenced(self, item: Sequenced) -> None:
        """The hub's sink."""
        if self._tracer is not None and isinstance(item.event, EgressEvent):
            self.on_event(item.event)

    def on_event(self, event: EgressEvent) -> None:
        if event.via is Via.DNS or event.phase in (Phase.COUNTED, Phase.PROGRESS):
            return
        key = (event.epoch, event.connection)
        if event.phase is Phase.CLOSED:
            decided = self._open.pop(key, None)
            if decided is not None:
                failure = event.reason if event.reason is not decided.reason else None
                egress_span(self._tracer, _merged(decided, event), failure=failure)
        elif event.decision is Decision.DENY:
            egress_span(self._tracer, event, failure=event.reason)
        else:
            self._open[key] = event
            if len(self._open) > _OPEN_LIMIT:
                self._open.popitem(last=False)


def _merged(decided: EgressEvent, closed: EgressEvent) -> EgressEvent:
    """The closing event with what only the deciding one may know."""
    return replace(
        closed,
        calls=decided.calls or closed.calls,
        more_calls=decided.more_calls if decided.calls else closed.more_calls,
        reason=closed.reason or decided.reason,
        rule=closed.rule or decided.rule,
        address=closed.address or decided.address,
        dns_s=decided.dns_s if closed.dns_s is None else closed.dns_s,
        connect_s=decided.connect_s if closed.connect_s is None else closed.connect_s,
        duration_s=closed.time - decided.time if closed.duration_s is None else closed.duration_s,
    )
