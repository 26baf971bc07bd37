"""Renders metric families in Prometheus' text format, with the names that OpenTelemetry's exporter would give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
