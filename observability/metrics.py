"""The metrics Stockade emits, as a table, and the plain numbers behind them.

A `Family` is one metric: its definition and a number (or a histogram) per label set. All writing happens on the
event loop's thread with plain ints and floats. A scrape or an export on another thread copies (`items`); under
the interpreter's lock each copy is whole, though two numbers of one histogram may be one observation apart.

Label names are the OpenTelemetry attribute names; Prometheus shows them with `_` for `.`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final, TypeAlias

from observability import semconv

Labels: TypeAlias = tuple[str, ...]

DURATION_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds (semantic conventions for MCP)."""
SESSION_BUCKETS: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
DNS_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SERIES_LIMIT: Final = 2000
"""Label sets a metric may have (the OpenTelemetry SDK's own limit); more fall together into one of `_other`."""


class Kind(StrEnum):
    """The kind of a metric's numbers."""

    COUNTER = "counter"
    GAUGE = "gauge"
    UP_DOWN = "up_down"
    """A gauge to Prometheus; a sum that can fall to OpenTelemetry."""
    HISTOGRAM = "histogram"


_UNIT_SUFFIX: Final = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The name, unit, labels and meaning of a metric."""

    name: str
    """The OpenTelemetry name; `prometheus_name` is made from it."""
    kind: Kind
    unit: str = ""
    description: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Without `_total` (counters) and `_bucket`, `_sum`, `_count` (histograms)."""
        return self.name.replace(".", "_") + _UNIT_SUFFIX.get(self.unit, "")

    @property
    def prometheus_labels(self) -> Labels:
        return tuple(label.replace(".", "_") for label in self.labels)

    @property
    def series_names(self) -> tuple[str, ...]:
        """Every name a PromQL expression can use for this metric."""
        name = self.prometheus_name
        match self.kind:
            case Kind.COUNTER:
                return (f"{name}_total",)
            case Kind.HISTOGRAM:
                return (f"{name}_bucket", f"{name}_sum", f"{name}_count")
            case Kind.GAUGE | Kind.UP_DOWN:
                return (name,)


class Distribution:
    """A histogram's numbers: one count per bucket (not cumulative, the last is above all bounds) and the sum."""

    __slots__ = ("bounds", "counts", "least", "most", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.least = inf
        self.most = -inf

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        self.least = min(self.least, value)
        self.most = max(self.most, value)


Number: TypeAlias = int | float
Value: TypeAlias = Number | Distribution


class Family:
    """The numbers of one counter or gauge, per label set."""

    def __init__(self, definition: Definition, *, limit: int = SERIES_LIMIT) -> None:
        self.definition = definition
        self._values: dict[Labels, Number] = {}
        self._limit = limit
        self._overflow: Labels = (semconv.OTHER,) * len(definition.labels)

    def _slot(self, labels: Labels) -> Labels:
        if labels in self._values or len(self._values) < self._limit:
            return labels
        return self._overflow

    def add(self, labels: Labels, amount: Number = 1) -> None:
        slot = self._slot(labels)
        self._values[slot] = self._values.get(slot, 0) + amount

    def set(self, labels: Labels, value: Number) -> None:
        self._values[self._slot(labels)] = value

    def get(self, labels: Labels) -> Number:
        return self._values.get(labels, 0)

    def replace(self, values: Mapping[Labels, Number]) -> None:
        """Exactly these label sets from now on (gauges that mirror the configuration)."""
        self._values = dict(values)

    def start(self, labels: Labels) -> None:
        """Shows the series at 0 before its first count, so that `increase()` sees that count. Never overflows."""
        if len(self._values) < self._limit // 2:
            self._values.setdefault(labels, 0)

    def clear(self) -> None:
        """Every series back to 0."""
        self._values = dict.fromkeys(self._values, 0)

    def keep(self, wanted: Callable[[Labels], bool]) -> None:
        """Forgets the label sets that are not wanted any more."""
        self._values = {labels: value for labels, value in self._values.items() if wanted(labels)}

    def items(self) -> list[tuple[Labels, Number]]:
        return list(self._values.items())


class HistogramFamily:
    """The distributions of one histogram, per label set."""

    def __init__(self, definition: Definition, *, limit: int = SERIES_LIMIT) -> None:
        self.definition = definition
        self._values: dict[Labels, Distribution] = {}
        self._limit = limit
        self._overflow: Labels = (semconv.OTHER,) * len(definition.labels)

    def observe(self, labels: Labels, value: float) -> None:
        distribution = self._values.get(labels)
        if distribution is None:
            slot = labels if len(self._values) < self._limit else self._overflow
            distribution = self._values.setdefault(slot, Distribution(self.definition.buckets))
        distribution.observe(value)

    def get(self, labels: Labels) -> Distribution | None:
        return self._values.get(labels)

    def keep(self, wanted: Callable[[Labels], bool]) -> None:
        """Forgets the label sets that are not wanted any more."""
        self._values = {labels: value for labels, value in self._values.items() if wanted(labels)}

    def items(self) -> list[tuple[Labels, Distribution]]:
        return list(self._values.items())


AnyFamily: TypeAlias = Family | HistogramFamily

SERVER_DURATION: Final = Definition(
    name=semconv.METRIC_SERVER_OPERATION_DURATION,
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Time from an MCP request's arrival at the gateway to its answer.",
    labels=(
        semconv.MCP_METHOD_NAME,
        semconv.GEN_AI_TOOL_NAME,
        semconv.ERROR_TYPE,
        semconv.NETWORK_TRANSPORT,
        semconv.LABEL_BACKEND,
        semconv.LABEL_CLIENT,
    ),
    buckets=DURATION_BUCKETS,
)
CLIENT_DURATION: Final = Definition(
    name=semconv.METRIC_CLIENT_OPERATION_DURATION,
    kind=Kind.HISTOGRAM,
    unit="s",
    description="Time a backend took to answer an MCP request of the gateway.",
    labels=(
        semconv.MCP_METHOD_NAME,
        semconv.ERROR_TYPE,
        semconv.NETWORK_TRANSPORT,
        semconv.LABEL_BACKEND,
    ),
    buckets=DURATION_BUCKETS,
)
SESSION_DURATION: Final = Definition(
    name=semconv.METRIC_SERVER_SESSION_DURATION,
    kind=Kind.HISTOGRAM,
    unit="s",
    description="How long a client's session lasted (revisions of MCP before 2026-07-28 only).",
    labels=(semconv.MCP_PROTOCOL_VERSION, semconv.LABEL_CLIENT),
    buckets=SESSION_BUCKETS,
)
CONNECTIONS: Final = Definition(
    name=semconv.METRIC_EGRESS_CONNECTIONS,
    kind=Kind.COUNTER,
    unit="{connection}",
    description="Connections decided. One that was allowed and then cut by the policy counts for both decisions.",
    labels=(
        semconv.LABEL_BACKEND,
        semconv.LABEL_DECISION,
        semconv.LABEL_RULE,
        semconv.LABEL_REASON,
        semconv.SERVER_PORT,
    ),
)
ACTIVE: Final = Definition(
    name=semconv.METRIC_EGRESS_ACTIVE,
    kind=Kind.UP_DOWN,
    unit="{connection}",
    description="Connections open now.",
    labels=(semconv.LABEL_BACKEND,),
)
CONNECTION_DURATION: Final = Definition(
    name=semconv.METRIC_EGRESS_DURATION,
    kind=Kind.HISTOGRAM,
    unit="s",
    description="How long carried connections lasted.",
    labels=(semconv.LABEL_BACKEND,),
    buckets=DURATION_BUCKETS,
)
DNS_DURATION: Final = Definition(
    name=semconv.METRIC_EGRESS_DNS_DURATION,
    kind=Kind.HISTOGRAM,
    unit="s",
    description="How long the egress took to resolve allowed names.",
    labels=(semconv.LABEL_BACKEND,),
    buckets=DNS_BUCKETS,
)
IO: Final = Definition(
    name=semconv.METRIC_EGRESS_IO,
    kind=Kind.COUNTER,
    unit="By",
    description="Bytes carried, counted when a connection closes; transmit is from the backend to the outside.",
    labels=(semconv.LABEL_BACKEND, semconv.NETWORK_IO_DIRECTION),
)
RULE_INFO: Final = Definition(
    name=semconv.METRIC_EGRESS_RULE_INFO,
    kind=Kind.GAUGE,
    description="1 for each rule of a backend's policy.",
    labels=(semconv.LABEL_BACKEND, semconv.LABEL_RULE),
)
TOOLS_FILTERED: Final = Definition(
    name=semconv.METRIC_TOOLS_FILTERED,
    kind=Kind.COUNTER,
    unit="{call}",
    description="Calls refused because the client may not see the tool.",
    labels=(semconv.LABEL_BACKEND, semconv.LABEL_CLIENT),
)
BACKEND_UP: Final = Definition(
    name=semconv.METRIC_BACKEND_UP,
    kind=Kind.GAUGE,
    description="1 while the backend runs (or is remote), else 0.",
    labels=(semconv.LABEL_BACKEND,),
)
BACKEND_RESTARTS: Final = Definition(
    name=semconv.METRIC_BACKEND_RESTARTS,
    kind=Kind.COUNTER,
    unit="{restart}",
    description="Starts of a backend after its first, except after a deliberate stop.",
    labels=(semconv.LABEL_BACKEND,),
)
RELOAD_SUCCESS: Final = Definition(
    name=semconv.METRIC_CONFIG_RELOAD_SUCCESS,
    kind=Kind.GAUGE,
    description="1 when the configuration in force is the one in the file, 0 when the last reload was refused.",
)
EVENTS_DROPPED: Final = Definition(
    name=semconv.METRIC_EVENTS_DROPPED,
    kind=Kind.COUNTER,
    unit="{event}",
    description="Events lost between the egress and a reader.",
    labels=(semconv.LABEL_SOURCE,),
)

DEFINITIONS: Final = (
    SERVER_DURATION,
    CLIENT_DURATION,
    SESSION_DURATION,
    CONNECTIONS,
    ACTIVE,
    CONNECTION_DURATION,
    DNS_DURATION,
    IO,
    RULE_INFO,
    TOOLS_FILTERED,
    BACKEND_UP,
    BACKEND_RESTARTS,
    RELOAD_SUCCESS,
    EVENTS_DROPPED,
)


def series_names() -> Iterator[str]:
    """Every series name that `/metrics` can show, `target_info` included."""
    yield "target_info"
    for definition in DEFINITIONS:
        yield from definition.series_names
