"""Spans of real requests through the endpoint: SERVER towards the client, CLIENT towards the backend."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.attack.scripted import script
from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import config, eventually, gateway, server

pytestmark = pytest.mark.anyio
TRACE = "0af7651916cd43dd8448eb211c80319c"
SENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "a=b"}


class Recorder(SimpleSpanProcessor):
    """Keeps what ended, and counts what has begun."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        super().__init__(self.exporter)
        self.begun = 0
        self.provider = TracerProvider()
        self.provider.add_span_processor(self)
        self.tracer = self.provider.get_tracer("test")

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.begun += 1

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def of(self, kind: SpanKind, name: str = "") -> list[ReadableSpan]:
        return [span for span in self.ended if span.kind is kind and name in ("", span.name)]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("connect", [legacy, modern])
@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
async def test_a_call_has_a_span_towards_the_client_and_within_it_one_towards_the_backend(
    http: bool, connect: Any
) -> None:
    spans = Recorder()
    async with gateway(config({"one": server(http=http)}), tracer=spans.tracer) as running:
        async with connect(running.url("one")) as client:
            await client.request("tools/list")
            await client.call("test_simple_text", _meta=SENT) if connect is legacy else await client.request(
                "tools/call", {"name": "test_simple_text", "arguments": {}}, SENT
            )
    (outer,) = spans.of(SpanKind.SERVER, "tools/call test_simple_text")
    (inner,) = spans.of(SpanKind.CLIENT, "tools/call test_simple_text")
    assert outer.context is not None
    assert f"{outer.context.trace_id:032x}" == TRACE
    assert inner.parent is not None
    assert (inner.parent.trace_id, inner.parent.span_id) == (outer.context.trace_id, outer.context.span_id)
    assert (
        attributes(inner).items()
        >= {
            "mcp.method.name": "tools/call",
            "gen_ai.tool.name": "test_simple_text",
            "network.transport": "tcp" if http else "pipe",
            "stockade.backend.name": "one",
        }.items()
    )
    assert "error.type" not in attributes(inner)
    assert spans.begun == len(spans.ended), "each span that began has ended"


@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
async def test_what_the_gateway_asks_for_itself_is_a_span_too_and_what_it_answers_itself_asks_nothing(
    http: bool,
) -> None:
    spans = Recorder()
    async with gateway(config({"one": server(http=http)}), tracer=spans.tracer) as running:
        async with legacy(running.url()) as client:
            await client.settled()
            names = {span.name for span in spans.of(SpanKind.CLIENT)}
            assert "tools/list" in names
            assert names & {"initialize", "server/discover"}
            assert all(span.parent is None for span in spans.of(SpanKind.CLIENT, "tools/list"))
            assert (await client.request("ping"))["result"] == {}
    assert not spans.of(SpanKind.CLIENT, "ping"), "the gateway answers a ping itself"
    assert spans.begun == len(spans.ended)


async def test_the_backend_gets_the_context_of_the_span_towards_it(tmp_path: Path) -> None:
    spans = Recorder()
    command = script(
        tmp_path, tools_list={"tools": [{"name": "do", "inputSchema": {"type": "object"}}]}, tools_call={}
    )
    async with gateway(config({"one": server()}), {"one": command}, tracer=spans.tracer) as running:
        async with legacy(running.url("one")) as client:
            await client.request("tools/list")
            await client.call("do", _meta={**SENT, "progressToken": "p"})
            (process,) = running.supervisor.instances.values()
            await eventually(lambda: any('"tools/call"' in line for line in process.errors))
            asked = [json.loads(line[6:]) for line in process.errors if line.startswith("asked ")]
    (meta,) = [params["_meta"] for method, params in asked if method == "tools/call"]
    (inner,) = spans.of(SpanKind.CLIENT, "tools/call do")
    assert inner.context is not None
    assert meta["traceparent"] == f"00-{TRACE}-{inner.context.span_id:016x}-01"
    assert meta["tracestate"] == "a=b"
    assert all("traceparent" not in str(params) for method, params in asked if method != "tools/call")


async def test_errors_refusals_and_calls_that_are_given_up_end_their_spans(tmp_path: Path) -> None:
    spans = Recorder()
    said = '"error": {"code": -32050, "message": "no"}'
    command = script(tmp_path, tools_list={"tools": [{"name": "do", "inputSchema": {}}]}, tools_call=said)
    settings = config({"one": server(), "two": server(), "gone": server()})
    async with gateway(settings, {"one": command}, tracer=spans.tracer) as running:
        running.supervisor.refuse["gone"] = "it does not build"
        async with legacy(running.url("one")) as client, legacy(running.url("two")) as other:
            await client.request("tools/list")
            assert "error" in await client.call("do")
            (inner,) = spans.of(SpanKind.CLIENT, "tools/call do")
            assert attributes(inner)["error.type"] == "-32050"
            await other.request("tools/list")
            assert "result" in await other.call("test_error_handling")
            (inner,) = spans.of(SpanKind.CLIENT, "tools/call test_error_handling")
            assert attributes(inner)["error.type"] == "tool_error"
            waiting = asyncio.ensure_future(other.call("wait", {"seconds": 30}))
            await eventually(lambda: running.endpoint.inflight.count() > 0)
            waiting.cancel()
            await eventually(lambda: spans.of(SpanKind.CLIENT, "tools/call wait"))
            (inner,) = spans.of(SpanKind.CLIENT, "tools/call wait")
            assert attributes(inner)["error.type"] == "-32000"
            await client.request("evil/method-of-a-client")
            assert not any("evil" in span.name for span in spans.ended)
    assert spans.begun == len(spans.ended)
