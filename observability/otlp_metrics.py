"""Sends the instruments' numbers over OTLP.

OpenTelemetry has no observable histogram, so the SDK's reader is kept (its interval, time-outs and exporter) and
only its collection is ours: it reads the very ints that `/metrics` shows. Temporality is always cumulative.
"""

from __future__ import annotations

import time
from typing import assert_never

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from observability.instruments import Instruments
from observability.metrics import Definition, Family, HistogramFamily, Kind, Labels


class InstrumentsReader(PeriodicExportingMetricReader):
    """Exports the instruments every `OTEL_METRIC_EXPORT_INTERVAL` milliseconds and once at shutdown."""

    def __init__(self, exporter: MetricExporter, instruments: Instruments, resource: Resource, scope: str) -> None:
        self._instruments = instruments
        self._resource = resource
        self._scope = InstrumentationScope(scope)
        self._start_ns = time.time_ns()
        super().__init__(exporter)
        # What MeterProvider does for its readers; the SDK offers no public way to bring one's own numbers.
        self._set_collect_callback(self._read)

    def _read(self, _reader: MetricReader, timeout_millis: float = 10_000) -> MetricsData:
        """All metrics that have a value now."""
        now = time.time_ns()
        metrics = [self._metric(family, now) for family in self._instruments.families if family.items()]
        scope = ScopeMetrics(scope=self._scope, metrics=metrics, schema_url="")
        return MetricsData([ResourceMetrics(resource=self._resource, scope_metrics=[scope], schema_url="")])

    def _metric(self, family: Family | HistogramFamily, now: int) -> Metric:
        definition = family.definition
        data: Sum | Gauge | Histogram
        match family:
            case Family():
                data = self._numbers(family, now)
            case HistogramFamily():
                data = Histogram(self._distributions(family, now), AggregationTemporality.CUMULATIVE)
        return Metric(definition.name, definition.description, definition.unit, data)

    def _numbers(self, family: Family, now: int) -> Sum | Gauge:
        points = [
            NumberDataPoint(_attributes(family.definition, labels), self._start_ns, now, value)
            for labels, value in family.items()
        ]
        match family.definition.kind:
            case Kind.COUNTER:
                return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
            case Kind.UP_DOWN:
                return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=False)
            case Kind.GAUGE:
                return Gauge(points)
            case Kind.HISTOGRAM:
                raise ValueError(f"{family.definition.name}: a family of numbers cannot be a histogram")
            case _:
                assert_never(family.definition.kind)

    def _distributions(self, family: HistogramFamily, now: int) -> list[HistogramDataPoint]:
        points = []
        for labels, distribution in family.items():
            counts = list(distribution.counts)
            points.append(
                HistogramDataPoint(
                    attributes=_attributes(family.definition, labels),
                    start_time_unix_nano=self._start_ns,
                    time_unix_nano=now,
                    count=sum(counts),
                    sum=distribution.total,
                    bucket_counts=counts,
                    explicit_bounds=distribution.bounds,
                    min=distribution.least,
                    max=distribution.most,
                )
            )
        return points


def _attributes(definition: Definition, labels: Labels) -> dict[str, str]:
    """Empty labels are attributes that are not there."""
    return {name: value for name, value in zip(definition.labels, labels, strict=True) if value}
