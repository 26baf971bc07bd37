"""OpenTelemetry's exporters: traces, metrics and logs over OTLP/HTTP, as the `OTEL_*` variables ask.

Nothing is exported, and no exporter thread runs, unless an endpoint is set (`OTEL_EXPORTER_OTLP_ENDPOINT`, or one
per signal). Sampler, batching, limits, headers, TLS, time-outs and resource are read by the SDK from their own
variables. The providers are private: no global one is set.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.trace import Tracer

from observability.hub import Sink
from observability.instruments import Instruments
from observability.spans import EgressSpans

logger = logging.getLogger(__name__)

SCOPE: Final = "stockade"
_PROTOCOL: Final = "http/protobuf"
_PROMETHEUS_PORT: Final = 9464

Closer: TypeAlias = Callable[[], object]


class Signal(StrEnum):
    """A kind of telemetry, as the variables spell it."""

    TRACES = "TRACES"
    METRICS = "METRICS"
    LOGS = "LOGS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What `setup` started."""

    tracer: Tracer | None
    """None when traces are not exported; `observability.spans` takes that as "off"."""
    sinks: tuple[Sink, ...] = ()
    """Attach these to the hub."""
    closers: tuple[Closer, ...] = ()

    def shutdown(self, deadline_s: float = 5.0) -> bool:
        """Exports what is buffered and stops. Blocks at most `deadline_s` seconds; False when that was too short."""
        if not self.closers:
            return True
        worker = threading.Thread(target=self._close_all, name="telemetry-shutdown", daemon=True)
        worker.start()
        worker.join(deadline_s)
        if worker.is_alive():
            logger.warning("Telemetry was not all sent within %g s of shutdown; the rest is lost.", deadline_s)
        return not worker.is_alive()

    def _close_all(self) -> None:
        for close in self.closers:
            try:
                close()
            except Exception:
                # The top of this thread: one exporter that fails must not keep the others from flushing.
                logger.exception("A telemetry exporter failed to stop.")


def resource_attributes(version: str) -> dict[str, str]:
    """What is measured: our name and version, then `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` over them."""
    return {key: str(value) for key, value in _resource(version).attributes.items()}


def setup(*, version: str, instruments: Instruments | None = None) -> Telemetry:
    """Starts the exporters that the environment asks for. Never raises for a bad variable: it logs and goes on."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry(tracer=None)
    resource = _resource(version)
    tracer: Tracer | None = None
    sinks: list[Sink] = []
    closers: list[Closer] = []
    if _exported(Signal.TRACES):
        tracer, close = _traces(resource, version)
        sinks.append(EgressSpans(tracer).on_sequenced)
        closers.append(close)
    if instruments is not None and _exported(Signal.METRICS):
        closers.append(_metrics(resource, instruments))
    if _exported(Signal.LOGS):
        sink, close = _logs(resource)
        sinks.append(sink)
        closers.append(close)
    if instruments is not None and _own_prometheus():
        closers.extend(_prometheus(instruments))
    return Telemetry(tracer=tracer, sinks=tuple(sinks), closers=tuple(closers))


def _resource(version: str) -> Resource:
    ours = Resource({"service.name": "stockade", "service.version": version})
    return ours.merge(OTELResourceDetector().detect())


def _exporters(signal: Signal) -> set[str]:
    words = os.environ.get(f"OTEL_{signal}_EXPORTER", "").lower().split(",")
    return {word.strip() for word in words if word.strip()}


def _exported(signal: Signal) -> bool:
    """Whether this signal goes out over OTLP. Logs only when `OTEL_LOGS_EXPORTER` names `otlp`."""
    wanted = _exporters(signal) or ({"otlp"} if signal is not Signal.LOGS else set())
    for word in sorted(wanted - {"otlp", "none", "prometheus"}):
        logger.warning("OTEL_%s_EXPORTER: %s is not supported; use otlp or none.", signal, word)
    if "otlp" not in wanted or not _set(signal, "ENDPOINT"):
        return False
    protocol = _set(signal, "PROTOCOL") or _PROTOCOL
    if protocol != _PROTOCOL:
        logger.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=%s is not supported, so %s are not exported; set it to %s (port 4318 on"
            " most collectors).",
            protocol,
            signal.lower(),
            _PROTOCOL,
        )
    return protocol == _PROTOCOL


def _set(signal: Signal, what: str) -> str:
    general = os.environ.get(f"OTEL_EXPORTER_OTLP_{what}", "")
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{what}", "") or general


def _traces(resource: Resource, version: str) -> tuple[Tracer, Closer]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer(SCOPE, version), provider.shutdown


def _metrics(resource: Resource, instruments: Instruments) -> Closer:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    from observability.otlp_metrics import InstrumentsReader

    return InstrumentsReader(OTLPMetricExporter(), instruments, resource, SCOPE).shutdown


def _logs(resource: Resource) -> tuple[Sink, Closer]:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    from observability.otlp_logs import EventLogs

    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    return EventLogs(provider.get_logger(SCOPE)).on_sequenced, provider.shutdown


def _own_prometheus() -> bool:
    """Whether a listener of its own is asked for; `/metrics` on the admin listener needs no variable."""
    named = any(os.environ.get(f"OTEL_EXPORTER_PROMETHEUS_{what}") for what in ("HOST", "PORT"))
    return named and "none" not in _exporters(Signal.METRICS)


def _prometheus(instruments: Instruments) -> list[Closer]:
    from observability.exposition import ScrapeListener

    host = os.environ.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "127.0.0.1"
    port = os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT") or str(_PROMETHEUS_PORT)
    try:
        return [ScrapeListener(instruments.expose, host=host, port=int(port)).close]
    except (ValueError, OSError) as error:
        logger.warning("OTEL_EXPORTER_PROMETHEUS_HOST/PORT: cannot listen on %s:%s: %s", host, port, error)
        return []
