"""Renders metric families in Prometheus' text format, with the names that OpenTelemetry's exporter would give."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from observability.metrics import AnyFamily, Distribution, Family, HistogramFamily, Kind

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""0.0.4 and not 1.0.0: Debian's Prometheus 2.42 knows only that one."""


def render(families: Iterable[AnyFamily], resource: Mapping[str, str]) -> bytes:
    """The families and `target_info` as one scrape."""
    return generate_latest(_Scrape(families, resource))


class _Scrape(Collector):
    def __init__(self, families: Iterable[AnyFamily], resource: Mapping[str, str]) -> None:
        self._families = families
        self._resource = resource

    def collect(self) -> Iterator[Metric]:
        yield _target_info(self._resource)
        for family in self._families:
            match family:
                case Family():
                    yield _numbers(family)
                case HistogramFamily():
                    yield _histogram(family)


def _target_info(resource: Mapping[str, str]) -> Metric:
    names = [name.replace(".", "_").replace("-", "_") for name in resource]
    metric = GaugeMetricFamily("target_info", "What is measured: OpenTelemetry resource attributes.", labels=names)
    metric.add_metric(list(resource.values()), 1)
    return metric


def _numbers(family: Family) -> Metric:
    definition = family.definition
    make = CounterMetricFamily if definition.kind is Kind.COUNTER else GaugeMetricFamily
    metric = make(definition.prometheus_name, definition.description, labels=definition.prometheus_labels)
    for labels, value in family.items():
        metric.add_metric(labels, value)
    return metric


def _histogram(family: HistogramFamily) -> Metric:
    definition = family.definition
    metric = HistogramMetricFamily(
        definition.prometheus_name, definition.description, labels=definition.prometheus_labels
    )
    for labels, distribution in family.items():
        metric.add_metric(labels, _buckets(distribution), distribution.total)
    return metric


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, distribution.bounds), "+Inf"]
    return list(zip(bounds, accumulate(distribution.counts), strict=True))


class ScrapeListener:
    """Serves `/metrics` on a listener of its own, on a thread, until `close`."""

    def __init__(self, expose: Callable[[], bytes], *, host: str, port: int) -> None:
        """Listens at once (port 0: any free one). Raises OSError when the address cannot be had."""

        class Handler(_ScrapeHandler):
            scrape = staticmethod(expose)

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="prometheus", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _ScrapeHandler(BaseHTTPRequestHandler):
    scrape: Callable[[], bytes]

    def do_GET(self) -> None:
        found = self.path.partition("?")[0] == "/metrics"
        body = self.scrape() if found else b"Metrics are at /metrics\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No line per scrape."""
