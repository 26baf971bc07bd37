"""A real OTLP/HTTP receiver, for this package's tests and the story's."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class OtlpReceiver:
    """What arrived, flattened to the proto messages of spans, metrics and log records."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.logs: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        match request.path:
            case "/v1/traces":
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append(attributes(group.resource))
                    self.spans += [span for scope in group.scope_spans for span in scope.spans]
            case "/v1/metrics":
                for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    self.resources.append(attributes(metrics.resource))
                    self.metrics += [metric for scope in metrics.scope_metrics for metric in scope.metrics]
            case "/v1/logs":
                for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
                    self.logs += [record for scope in logs.scope_logs for record in scope.log_records]
        self.arrived.set()
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> list[Any]:
        """The spans of that name."""
        return [span for span in self.spans if span.name == name]


def attributes(item: Any) -> dict[str, Any]:
    """The attributes of a span, link, point, record or resource as plain values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in item.attributes}


@asynccontextmanager
async def receiving_otlp() -> AsyncIterator[OtlpReceiver]:
    """A receiver on a free port; set `OTEL_EXPORTER_OTLP_ENDPOINT` to its `url`."""
    receiver = OtlpReceiver()
    app = web.Application()
    app.router.add_post("/v1/{signal}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = "http://{}:{}".format(*runner.addresses[0][:2])
    try:
        yield receiver
    finally:
        await runner.cleanup()
