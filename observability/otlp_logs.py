"""Sends the canonical log records over OTLP, each in the trace of the request it belongs to, where certain."""

from __future__ import annotations

import logging
from typing import cast

from opentelemetry import trace
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.util.types import AnyValue

from observability.events import Sequenced
from observability.logs import canonical, has_line, severity
from observability.text import encodable


class EventLogs:
    """A sink of the hub that makes a log record of each egress and call event."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def on_sequenced(self, item: Sequenced) -> None:
        event = item.event
        if not has_line(event):
            return
        fields = canonical(event)
        name = str(fields.pop("event"))
        warning = severity(event) >= logging.WARNING
        self._logger.emit(
            timestamp=round(event.time * 1e9),
            context=_context(str(fields.pop("trace_id", "")), str(fields.pop("span_id", ""))),
            severity_number=SeverityNumber.WARN if warning else SeverityNumber.INFO,
            severity_text="WARN" if warning else "INFO",
            body=name,
            attributes={key: _attribute(value) for key, value in fields.items()},
            event_name=name,
        )


def _attribute(value: object) -> AnyValue:
    match value:
        case str():
            return encodable(value)
        case list():
            return [_attribute(item) for item in value]
        case _:
            return cast(AnyValue, value)


def _context(trace_id: str, span_id: str) -> Context:
    if not trace_id or not span_id:
        return Context()
    span = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1))
    return trace.set_span_in_context(NonRecordingSpan(span), Context())
