"""Logs: one canonical line per egress connection and per MCP request, as JSON or as text for a person.

Fixed field names, the attribute names of `observability.semconv`; what a backend or a client wrote is always a
JSON string in the line, so it can forge neither a line nor a field. A line has a bound too, whatever is logged.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TextIO, TypeGuard

from observability import semconv
from observability.events import CallEvent, CallRef, Certainty, Decision, EgressEvent, Event, Phase, cut

CONNECTION_EVENT: Final = "stockade.egress.connection"
CALL_EVENT: Final = "stockade.mcp.call"

MESSAGE_LIMIT: Final = 4000
"""Characters of a line's message, and of each of its fields."""
EXCEPTION_LIMIT: Final = 8000
"""Characters of a traceback: its end, which says what happened."""

Fields = Mapping[str, object]
_BARE: Final = re.compile(r"[!#-<>-\[\]-~]+")
"""A value that needs no quotes: printable ASCII without blank, `"`, `=` and backslash."""

event_logger: Final = logging.getLogger("stockade.events")
"""The canonical lines; everything else logs under its module's name."""


def canonical(event: EgressEvent | CallEvent) -> dict[str, object]:
    """The fields of an event's canonical line; empty ones are left out."""
    fields = _connection_fields(event) if isinstance(event, EgressEvent) else _call_fields(event)
    return {key: value for key, value in fields.items() if value not in ("", None, ())}


def _connection_fields(event: EgressEvent) -> dict[str, object]:
    call = event.calls[0] if event.certainty is Certainty.CERTAIN else None
    return {
        "event": CONNECTION_EVENT,
        "phase": event.phase,
        semconv.BACKEND_NAME: event.backend,
        semconv.EGRESS_DECISION: event.decision,
        semconv.EGRESS_REASON: event.reason,
        semconv.SERVER_ADDRESS: event.host,
        semconv.SERVER_PORT: event.port or None,
        semconv.NETWORK_PEER_ADDRESS: event.address,
        semconv.EGRESS_DESTINATION: event.destination,
        semconv.EGRESS_METHOD: event.method,
        semconv.EGRESS_VIA: event.via,
        semconv.EGRESS_MODE: event.mode,
        semconv.SECURITY_RULE_NAME: event.rule,
        semconv.EGRESS_CONNECTION: event.connection,
        semconv.EGRESS_BYTES_SENT: event.bytes_sent if event.phase is Phase.CLOSED else None,
        semconv.EGRESS_BYTES_RECEIVED: event.bytes_received if event.phase is Phase.CLOSED else None,
        "duration_s": event.duration_s,
        "count": event.count if event.count > 1 else None,
        semconv.EGRESS_CALL_CERTAINTY: event.certainty,
        "calls": [*map(_called, event.calls), *([f"and {event.more_calls} more"] if event.more_calls else [])]
        or None,
        "trace_id": call.trace_id if call else None,
        "span_id": call.span_id if call else None,
        "detail": event.detail,
    }


def _called(ref: CallRef) -> str:
    return f"{ref.client}/{ref.request_id} {ref.method} {ref.tool}".strip()


def _call_fields(event: CallEvent) -> dict[str, object]:
    return {
        "event": CALL_EVENT,
        semconv.MCP_METHOD_NAME: event.method,
        semconv.GEN_AI_TOOL_NAME: event.tool,
        semconv.BACKEND_NAME: event.backend,
        semconv.CLIENT_NAME: event.client,
        semconv.JSONRPC_REQUEST_ID: event.request_id,
        semconv.ERROR_TYPE: event.error,
        semconv.MCP_PROTOCOL_VERSION: event.protocol_version,
        semconv.NETWORK_TRANSPORT: event.transport,
        "duration_s": round(event.duration_s, 6),
        "denied": list(event.denied) or None,
    }


def severity(event: EgressEvent | CallEvent) -> int:
    """A `logging` level: a denial or a failed request is a warning."""
    if isinstance(event, EgressEvent):
        return logging.WARNING if event.decision is Decision.DENY else logging.INFO
    return logging.WARNING if event.error else logging.INFO


def has_line(event: Event) -> TypeGuard[EgressEvent | CallEvent]:
    """Whether the log has a line for it: for a request, and for the beginning and the end of a connection."""
    if isinstance(event, EgressEvent):
        return event.phase is not Phase.PROGRESS
    return isinstance(event, CallEvent)


def event_record(event: EgressEvent | CallEvent) -> logging.LogRecord:
    """Its canonical line as a record of `stockade.events`, at the event's own time."""
    fields = canonical(event)
    record = logging.LogRecord(event_logger.name, severity(event), "", 0, str(fields["event"]), None, None)
    record.created = event.time
    record.fields = fields
    return record


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream; many of them with one write (`emit_all`)."""

    def emit_all(self, records: Sequence[logging.LogRecord]) -> None:
        """As `handle` for each of them. The handler is locked for the write only, not while they are formatted."""
        records = [record for record in records if record.levelno >= self.level and self.filter(record)]
        if not records:
            return
        try:
            text = "".join(self.format(record) + self.terminator for record in records)
            with self._locked():
                self.before_lines()
                self.stream.write(text)
                self.flush()
        except Exception:
            self.handleError(records[-1])  # as the library does: a log that fails stops nothing

    def before_lines(self) -> None:
        """Called with the lock held, before lines are written."""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


class JsonFormatter(logging.Formatter):
    """One JSON object a line, all ASCII: `time` (RFC 3339), `level`, `logger`, `message`, `exception`, the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": cut(record.getMessage(), MESSAGE_LIMIT),
        }
        if record.exc_info:
            line["exception"] = _end(self.formatException(record.exc_info))
        line.update(_fields(record))
        return json.dumps(line, default=str, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """`TIME LEVEL MESSAGE key=value …` for a terminal; values with anything but plain characters are quoted."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            _timestamp(record.created),
            record.levelname.ljust(7),
            _one_line(cut(record.getMessage(), MESSAGE_LIMIT)),
        ]
        parts += [f"{key}={_plain(value)}" for key, value in _fields(record).items() if key != "event"]
        if record.exc_info:
            parts.append("\n" + _printable(_end(self.formatException(record.exc_info))))
        return " ".join(parts)


def configure(
    *, as_json: bool, level: int = logging.INFO, stream: TextIO | None = None, handler: logging.Handler | None = None
) -> None:
    """Sends all logs to `handler`, else to `stream` (standard error), replacing what handlers the root logger had."""
    handler = handler or LineHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _fields(record: logging.LogRecord) -> Fields:
    fields = getattr(record, "fields", None)
    if not isinstance(fields, Mapping):
        return {}
    return {key: cut(value, MESSAGE_LIMIT) if isinstance(value, str) else value for key, value in fields.items()}


def _end(traceback: str) -> str:
    left_out = len(traceback) - EXCEPTION_LIMIT
    return traceback if left_out <= 0 else f"[{left_out} characters] …{traceback[left_out:]}"


def _timestamp(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _printable(text: str) -> str:
    """Several lines for a terminal, without what could steer it."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def _plain(value: object) -> str:
    text = str(value)
    if _BARE.fullmatch(text):
        return text
    return json.dumps(value if isinstance(value, (str, list)) else text)
