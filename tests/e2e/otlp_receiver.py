"""A real OTLP/HTTP receiver: keeps every span that arrives."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """A span as it came over the wire."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    """(trace id, span id)."""


class OtlpReceiver:
    """Listens on 127.0.0.1 while used as a context manager."""

    def __init__(self) -> None:
        self._spans: list[ReceivedSpan] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    receiver.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans of one export."""
        with self._arrived:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self._spans.extend(map(received, scope.spans))
            self._arrived.notify_all()

    def wait_for(self, name: str, timeout_s: float = 60, **attributes: Any) -> ReceivedSpan:
        """The first span of that name with all these attributes (`_` for `.` is not translated; pass a dict with **).

        Raises AssertionError when none arrives in time.
        """

        found = self._first(
            lambda span: span.name == name and attributes.items() <= span.attributes.items(), timeout_s
        )
        names = sorted({span.name for span in self.spans})
        assert found is not None, f"no span {name} with {attributes}; there are {names}"
        return found

    def wait_for_id(self, span_id: str, timeout_s: float = 60) -> ReceivedSpan:
        """The span of that id, which may arrive after one that links to it. Raises AssertionError when it does not."""
        found = self._first(lambda span: span.span_id == span_id, timeout_s)
        assert found is not None, f"no span {span_id}"
        return found

    def _first(self, wanted: Callable[[ReceivedSpan], bool], timeout_s: float) -> ReceivedSpan | None:
        with self._arrived:
            self._arrived.wait_for(lambda: any(map(wanted, self._spans)), timeout_s)
            return next(filter(wanted, self._spans), None)

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        with self._arrived:
            return tuple(self._spans)


def received(span: Any) -> ReceivedSpan:
    def value(any_value: Any) -> Any:
        return getattr(any_value, any_value.WhichOneof("value"))

    return ReceivedSpan(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        attributes={pair.key: value(pair.value) for pair in span.attributes},
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )
