"""What the `OTEL_*` variables ask for is what arrives at a real OTLP receiver."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import urllib.request
from collections.abc import AsyncIterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from observability.hub import Hub
from observability.instruments import Instruments
from observability.spans import NO_SPAN, CallInfo, client_span, finish, inject, server_span, span_ids
from observability.telemetry import Telemetry, resource_attributes, setup
from tests.observability.load import Load
from tests.observability.otlp import OtlpReceiver, attributes, receiving_otlp
from tests.observability.samples import allowed, call_ref, called, closed, decided

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `OTEL_*` variable of the machine, and no proxy, reaches a test."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OtlpReceiver]:
    async with receiving_otlp() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


async def stop(telemetry: Telemetry) -> None:
    async with asyncio.timeout(60):
        assert await asyncio.to_thread(telemetry.shutdown, 45.0)


async def test_an_allowed_and_a_blocked_connection_arrive_as_linked_spans(receiver: OtlpReceiver) -> None:
    telemetry = setup(version="1.2.3")
    hub = Hub()
    for sink in telemetry.sinks:
        hub.attach(sink)
    call = CallInfo(method="tools/call", tool="fetch", backend="fetch", client="cursor", request_id="7")
    span = server_span(telemetry.tracer, call)
    trace_id, span_id = span_ids(span)
    calls = (call_ref(trace_id=trace_id, span_id=span_id),)

    hub.publish(allowed(1, calls=calls))
    hub.publish(closed(1))
    hub.publish(decided(2, calls=calls, detail="evil.example is not allowed."))
    finish(span, error="tool_error")
    await stop(telemetry)

    (blocked,) = [found for found in receiver.named("CONNECT") if found.status.code == Status.STATUS_CODE_ERROR]
    (carried,) = [found for found in receiver.named("CONNECT") if found.status.code != Status.STATUS_CODE_ERROR]
    assert attributes(blocked) == {
        "server.address": "evil.example",
        "server.port": 443,
        "client.address": "127.0.0.1",
        "network.transport": "tcp",
        "security_rule.ruleset.name": "fetch",
        "stockade.backend.name": "fetch",
        "stockade.egress.decision": "deny",
        "stockade.egress.reason": "host_not_allowed",
        "error.type": "host_not_allowed",
        "stockade.egress.mode": "enforce",
        "stockade.egress.via": "proxy",
        "stockade.egress.method": "CONNECT",
        "stockade.egress.connection.id": 2,
        "stockade.egress.call.certainty": "certain",
        "stockade.egress.bytes_sent": 0,
        "stockade.egress.bytes_received": 0,
    }
    assert (
        attributes(carried).items()
        >= {
            "stockade.egress.decision": "allow",
            "security_rule.name": "api.github.com",
            "stockade.egress.bytes_sent": 500,
            "network.peer.address": "203.0.113.7",
        }.items()
    )
    (call_span,) = receiver.named("tools/call fetch")
    for found in (blocked, carried):
        assert found.kind == Span.SPAN_KIND_SERVER
        (link,) = found.links
        assert (link.trace_id, link.span_id) == (call_span.trace_id, call_span.span_id)
        assert attributes(link).items() >= {"stockade.egress.call.certainty": "certain"}.items()
        assert found.trace_id != call_span.trace_id
    assert attributes(call_span)["error.type"] == "tool_error"
    assert receiver.resources[0].items() >= {"service.name": "stockade", "service.version": "1.2.3"}.items()


async def test_the_dial_is_a_client_span_inside_the_connection(receiver: OtlpReceiver) -> None:
    telemetry = setup(version="1")
    hub = Hub()
    hub.attach(telemetry.sinks[0])
    hub.publish(allowed())
    hub.publish(closed())
    await stop(telemetry)

    (dial,), (connect,) = receiver.named("dial"), receiver.named("CONNECT")
    assert dial.kind == Span.SPAN_KIND_CLIENT
    assert (dial.trace_id, dial.parent_span_id) == (connect.trace_id, connect.span_id)
    assert connect.start_time_unix_nano == 1_001_000_000_000
    assert connect.end_time_unix_nano == 1_003_000_000_000
    assert dial.start_time_unix_nano == 1_001_004_000_000
    assert dial.end_time_unix_nano == 1_001_034_000_000


async def test_a_client_s_trace_goes_through_the_gateway_to_the_backend(receiver: OtlpReceiver) -> None:
    telemetry = setup(version="1")
    sent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "progressToken": 3}
    http = {"traceparent": "00-11111111111111111111111111111111-2222222222222222-01"}
    server = server_span(telemetry.tracer, CallInfo(method="tools/list"), meta=sent, headers=http)
    client = client_span(telemetry.tracer, CallInfo(method="tools/list", backend="fetch"), parent=server)
    forwarded: dict[str, object] = dict(sent)
    inject(client, forwarded)
    finish(client)
    finish(server)
    await stop(telemetry)

    inner, outer = receiver.named("tools/list")
    assert (inner.kind, outer.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
    assert outer.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert outer.parent_span_id.hex() == "b7ad6b7169203331"
    assert inner.parent_span_id == outer.span_id
    assert forwarded["traceparent"] == f"00-{outer.trace_id.hex()}-{inner.span_id.hex()}-01"
    assert forwarded["progressToken"] == 3
    assert [link.trace_id.hex() for link in outer.links] == ["1" * 32]


async def test_metrics_go_out_with_the_numbers_of_the_scrape(receiver: OtlpReceiver) -> None:
    hub, instruments = Hub(), Instruments()
    hub.attach(instruments.on_sequenced)
    telemetry = setup(version="1", instruments=instruments)
    Load(hub, instruments).round()
    await stop(telemetry)

    arrived = {metric.name: metric for metric in receiver.metrics}
    assert set(arrived) == {family.definition.name for family in instruments.families}
    connections = arrived["stockade.egress.connections"].sum
    assert connections.is_monotonic
    denied = [
        point.as_int
        for point in connections.data_points
        if attributes(point).items() >= {"decision": "deny", "reason": "port_not_allowed", "backend": "fetch"}.items()
    ]
    assert sum(denied) == 1
    (calls,) = [
        point
        for point in arrived["mcp.server.operation.duration"].histogram.data_points
        if attributes(point).get("gen_ai.tool.name") == "fetch" and "error.type" not in attributes(point)
    ]
    assert (calls.count, calls.sum, calls.min, calls.max) == (2, pytest.approx(0.43), 0.03, 0.4)
    assert not arrived["stockade.egress.connection.active"].sum.is_monotonic
    assert arrived["stockade.backend.up"].HasField("gauge")
    assert arrived["stockade.egress.io"].unit == "By"


async def test_logs_go_out_when_asked_for_in_the_trace_of_their_call(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    telemetry = setup(version="1")
    hub = Hub()
    for sink in telemetry.sinks:
        hub.attach(sink)
    hub.publish(decided(calls=(call_ref(trace_id="ab" * 16, span_id="cd" * 8),)))
    hub.publish(called())
    await stop(telemetry)

    denial, call = receiver.logs
    assert (denial.event_name, denial.severity_text) == ("stockade.egress.connection", "WARN")
    assert denial.trace_id.hex() == "ab" * 16
    assert attributes(denial)["stockade.egress.reason"] == "host_not_allowed"
    assert (call.event_name, call.severity_text) == ("stockade.mcp.call", "INFO")


async def test_text_that_is_no_unicode_loses_no_span_and_no_log(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    telemetry = setup(version="1")
    hub = Hub()
    for sink in telemetry.sinks:
        hub.attach(sink)
    hub.publish(decided(detail="\ud800", calls=(call_ref(tool="\ud800", trace_id="ab" * 16, span_id="cd" * 8),)))
    finish(server_span(telemetry.tracer, CallInfo(method="tools/call", tool="\ud800")), error="\ud800")
    await stop(telemetry)

    assert {span.name for span in receiver.spans} == {"CONNECT", "tools/call ?"}
    assert attributes(receiver.logs[0])["detail"] == "?"


async def test_variables_of_the_sdk_are_honoured(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "wall")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
    telemetry = setup(version="1")
    finish(server_span(telemetry.tracer, CallInfo(method="ping", client="cursor")))
    await stop(telemetry)

    assert receiver.headers[0]["x-key"] == "secret"
    assert receiver.headers[0]["content-encoding"] == "gzip"
    assert receiver.resources[0].items() >= {"service.name": "wall", "service.version": "9"}.items()
    assert attributes(receiver.spans[0])["stockade.client.name"] == "curs"
    assert resource_attributes("1")["deployment.environment.name"] == "test"


async def test_a_sampler_that_takes_nothing_sends_nothing(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    telemetry = setup(version="1")
    span = server_span(telemetry.tracer, CallInfo(method="ping"))
    assert not span.is_recording()
    finish(span)
    hub = Hub()
    hub.attach(telemetry.sinks[0])
    hub.publish(decided())
    await stop(telemetry)

    assert receiver.spans == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        pytest.param("OTEL_SDK_DISABLED", "true", "", id="disabled"),
        pytest.param("OTEL_TRACES_EXPORTER", "none", "", id="none"),
        pytest.param("OTEL_TRACES_EXPORTER", "zipkin", "zipkin is not supported", id="another exporter"),
        pytest.param("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "set it to http/protobuf", id="grpc"),
    ],
)
async def test_traces_are_off_when_a_variable_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)

    telemetry = setup(version="1")

    assert (telemetry.tracer, telemetry.sinks) == (None, ())
    assert said in caplog.text


async def test_without_an_endpoint_nothing_runs_and_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = setup(version="1", instruments=Instruments())
    meta: dict[str, object] = {"traceparent": "from the client"}
    span = server_span(telemetry.tracer, CallInfo(method="ping"), meta=meta)
    inject(client_span(telemetry.tracer, CallInfo(method="ping"), parent=span), meta)
    finish(span, error="x", status_code=-32603)

    assert meta == {"traceparent": "from the client"}
    assert span_ids(span) == ("", "")
    assert telemetry.closers == ()
    assert telemetry.shutdown()


async def test_an_endpoint_for_one_signal_starts_only_that_one(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", receiver.url + "/v1/metrics")

    telemetry = setup(version="1", instruments=Instruments())
    await stop(telemetry)

    assert telemetry.tracer is None
    assert receiver.metrics


async def test_shutdown_gives_up_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        telemetry = setup(version="1")
        finish(server_span(telemetry.tracer, CallInfo(method="ping")))
        with caplog.at_level(logging.WARNING):
            done = await asyncio.to_thread(telemetry.shutdown, 0.2)

    assert not done
    assert "not all sent within 0.2 s" in caplog.text


async def test_an_extra_prometheus_listener_opens_only_where_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        assert setup(version="1", instruments=Instruments()).closers == ()
        assert f"cannot listen on 127.0.0.1:{port}" in caplog.text
    telemetry = setup(version="1", instruments=Instruments())

    def scrape(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            body: bytes = answer.read()
            return body

    assert b"stockade_config_reload_success 1.0" in await asyncio.to_thread(scrape, "/metrics")
    await stop(telemetry)


async def test_without_an_exporter_every_span_is_the_same_empty_one() -> None:
    call = CallInfo(method="tools/call", tool="fetch")

    assert server_span(None, call, meta={"traceparent": "x"}) is NO_SPAN
    assert client_span(None, call, parent=NO_SPAN) is NO_SPAN
