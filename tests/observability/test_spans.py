"""Which spans are made of which events; what a receiver gets of them is in test_telemetry."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

from observability.events import Decision, EgressEvent, Phase, Reason, Sequenced, Via
from observability.spans import ATTRIBUTE_LIMIT, CallInfo, EgressSpans, finish, server_span
from tests.observability.samples import SPAN_ID, TRACE_ID, allowed, call_ref, called, closed, decided, moved


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


def made(exporter: InMemorySpanExporter, tracer: Tracer, *events: EgressEvent) -> list[ReadableSpan]:
    spans = EgressSpans(tracer)
    for number, event in enumerate(events):
        spans.on_sequenced(Sequenced(id=number, event=event))
    return [span for span in exporter.get_finished_spans() if span.name == "CONNECT"]


def test_no_attribute_is_as_long_as_a_client_likes(exporter: InMemorySpanExporter, tracer: Tracer) -> None:
    """Red team M5: a URI of 60 kB was an attribute of each span and of each link to it."""
    long = "any://" + "x" * 60_000
    info = CallInfo(method="resources/read", prompt=long, resource_uri=long, request_id=long, client=long)
    finish(server_span(tracer, info), error="x", description=long)
    calls = tuple(call_ref(tool=long, request_id=long, trace_id=TRACE_ID, span_id=SPAN_ID) for _ in range(50))
    made(exporter, tracer, decided(calls=calls, host=long, detail=long))

    for span in exporter.get_finished_spans():
        said = [*of(span).values(), *(value for link in span.links for value in (link.attributes or {}).values())]
        assert max(len(str(value)) for value in [*said, span.name]) <= ATTRIBUTE_LIMIT
        assert len(span.status.description or "") <= 2 * ATTRIBUTE_LIMIT
        assert len(span.links) <= 5


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize(
    ("events", "decisions"),
    [
        pytest.param([decided()], ["deny"], id="a denial at once"),
        pytest.param([allowed()], [], id="an open connection not yet"),
        pytest.param([allowed(), closed()], ["allow"], id="a carried one when it closes"),
        pytest.param([allowed(), moved(), closed()], ["allow"], id="what it moved meanwhile is none of its own"),
        pytest.param([closed()], [], id="an end without a beginning not at all"),
        pytest.param([decided(via=Via.DNS)], [], id="a lookup not at all"),
        pytest.param([decided(phase=Phase.COUNTED, count=3)], [], id="a mere count not at all"),
        pytest.param([allowed(1), closed(1, epoch="e2")], [], id="epochs are told apart"),
    ],
)
def test_one_span_a_connection(
    exporter: InMemorySpanExporter, tracer: Tracer, events: list[EgressEvent], decisions: list[str]
) -> None:
    assert [of(span)["stockade.egress.decision"] for span in made(exporter, tracer, *events)] == decisions


def test_the_calls_of_the_moment_of_decision_are_the_links(exporter: InMemorySpanExporter, tracer: Tracer) -> None:
    first = call_ref(trace_id=TRACE_ID, span_id=SPAN_ID)
    later = call_ref(request_id="9", trace_id="ab" * 16, span_id="cd" * 8)
    untraced = call_ref(request_id="8")

    (span,) = made(exporter, tracer, allowed(calls=(first, untraced)), closed(calls=(later,)))

    (link,) = span.links
    assert f"{link.context.trace_id:032x}" == TRACE_ID
    assert dict(link.attributes or {}) == {
        "stockade.egress.call.certainty": "probable",
        "jsonrpc.request.id": "7",
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "fetch",
        "stockade.client.name": "cursor",
    }
    assert of(span)["stockade.egress.call.certainty"] == "probable"


def test_a_reported_connection_tells_its_reason_but_is_no_error(
    exporter: InMemorySpanExporter, tracer: Tracer
) -> None:
    report: dict[str, Any] = {"decision": Decision.REPORT, "reason": Reason.HOST_NOT_ALLOWED}
    (span,) = made(exporter, tracer, allowed(**report), closed(**report | {"reason": None}))

    assert of(span)["stockade.egress.reason"] == "host_not_allowed"
    assert "error.type" not in of(span)
    assert span.status.status_code is StatusCode.UNSET


def test_a_reported_connection_that_fails_is_an_error(exporter: InMemorySpanExporter, tracer: Tracer) -> None:
    report: dict[str, Any] = {"decision": Decision.REPORT, "reason": Reason.HOST_NOT_ALLOWED}
    made(exporter, tracer, allowed(**report), closed(**report | {"reason": Reason.CONNECT_FAILED}))

    dial, connect = exporter.get_finished_spans()
    assert of(dial)["error.type"] == of(connect)["error.type"] == "connect_failed"


def test_a_connection_that_was_cut_is_an_error(exporter: InMemorySpanExporter, tracer: Tracer) -> None:
    (span,) = made(exporter, tracer, allowed(), closed(reason=Reason.SNI_MISMATCH, duration_s=None))

    assert (of(span)["error.type"], of(span)["security_rule.name"]) == ("sni_mismatch", "api.github.com")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.start_time, span.end_time) == (1_001_000_000_000, 1_003_000_000_000)


def test_other_events_and_no_tracer_make_no_spans(exporter: InMemorySpanExporter, tracer: Tracer) -> None:
    EgressSpans(tracer).on_sequenced(Sequenced(id=1, event=called()))
    EgressSpans(None).on_sequenced(Sequenced(id=1, event=decided()))
    EgressSpans(None).on_event(decided())

    assert exporter.get_finished_spans() == ()


def test_a_call_s_span_has_the_attributes_of_the_conventions(exporter: InMemorySpanExporter, tracer: Tracer) -> None:
    call = CallInfo(
        method="tools/call",
        tool="fetch",
        request_id="7",
        backend="fetch",
        client="cursor",
        protocol_version="2026-07-28",
        transport="tcp",
        peer_address="127.0.0.1",
        peer_port=5000,
    )
    finish(
        server_span(tracer, call, meta={"traceparent": 5}, headers={"host": "x"}), error="-32602", status_code=-32602
    )

    (span,) = exporter.get_finished_spans()
    assert span.name == "tools/call fetch"
    assert of(span) == {
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "fetch",
        "gen_ai.operation.name": "execute_tool",
        "jsonrpc.request.id": "7",
        "mcp.protocol.version": "2026-07-28",
        "network.transport": "tcp",
        "stockade.backend.name": "fetch",
        "stockade.client.name": "cursor",
        "client.address": "127.0.0.1",
        "client.port": 5000,
        "error.type": "-32602",
        "rpc.response.status_code": "-32602",
    }
    assert span.parent is None
