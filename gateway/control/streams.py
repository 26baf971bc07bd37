"""Event and log streams: Server-Sent Events when followed, one JSON answer when not.

A stream is bounded on every side: the hub's subscription drops events when the reader is slow (and the stream
says how many, as an `event: gap`), a peer that stops reading costs one buffer, and there are at
most `MAX_STREAMS` at once. `id:` is the hub's event number, so a browser resumes by itself with `Last-Event-ID`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.control.base import Control, Hub
from gateway.control.wire import ApiError, bad, count, switch
from gateway.runtime.sandbox.log_ring import LogLine
from observability.event_json import kind_of, to_json
from observability.events import Decision, EgressEvent, Event, Sequenced

MAX_STREAMS = 64
BUFFER = 1000
HEARTBEAT_S = 15
KINDS = ("egress", "call", "backend", "tool", "notice")


def event_json(item: Sequenced) -> dict[str, Any]:
    """An event with its number, as the API shows it."""
    return {"id": item.id, **to_json(item.event)}


def log_json(line: LogLine) -> dict[str, Any]:
    """One line of a backend's output."""
    return {"time": line.time, "stream": line.stream, "text": line.text, "instance": line.instance}


def event_filter(request: Request) -> Callable[[Event], bool]:
    """A filter from `?type=&backend=&decision=`; each may have several values, separated by commas.

    Raises ApiError for an unknown value.
    """
    kinds = _words(request, "type", KINDS)
    decisions = _words(request, "decision", tuple(Decision))
    backends = _words(request, "backend", None)

    def accept(event: Event) -> bool:
        if kinds and kind_of(event) not in kinds:
            return False
        if backends and event.backend not in backends:
            return False
        return not decisions or (isinstance(event, EgressEvent) and event.decision in decisions)

    return accept


def _words(request: Request, name: str, known: tuple[str, ...] | None) -> frozenset[str]:
    words = frozenset(word for word in request.query_params.get(name, "").split(",") if word)
    for word in sorted(words) if known is not None else ():
        if word not in (known or ()):
            raise bad(f"`{name}` has an unknown value; known: {', '.join(known or ())}.", name)
    return words


@dataclass(slots=True)
class Streams:
    """The event and log endpoints; counts the open streams."""

    control: Control
    open: int = 0

    async def events(self, request: Request) -> Response:
        """`GET events`: the newest events, or a stream that resumes after `Last-Event-ID` or `?since=`."""
        accept = event_filter(request)
        since = self._since(request)
        if switch(request, "follow"):
            return self._stream(_follow(self.control.hub, accept, since))
        limit = count(request, "limit", 200, 5000)
        found = self.control.hub.recent(limit, accept)
        rows = [event_json(item) for item in found if since is None or item.id > since]
        return JSONResponse({"events": rows, "last_id": self.control.hub.last_id})

    def _since(self, request: Request) -> int | None:
        last = request.headers.get("last-event-id", "")
        if last.isascii() and last.isdigit() and len(last) < 19:
            return int(last)
        return count(request, "since", 0, 10**18) if "since" in request.query_params else None

    async def logs(self, request: Request, backend: str) -> Response:
        """`GET backends/N/logs`: the last lines, and with `follow` the new ones."""
        follow = switch(request, "follow")
        lines = self.control.supervisor.logs(backend, tail=count(request, "tail", 200, 10_000), follow=follow)
        if follow:
            return self._stream(_numbered(lines))
        return JSONResponse({"lines": [log_json(line) async for line in lines]})

    def _stream(self, source: AsyncIterator[ServerSentEvent]) -> Response:
        if self.open >= MAX_STREAMS:
            raise ApiError(
                503, "too_many_streams", f"There are {MAX_STREAMS} streams open already. Close one and try again."
            )
        return EventSourceResponse(
            self._counted(source), ping=HEARTBEAT_S, headers={"Cache-Control": "no-store"}, sep="\n"
        )

    async def _counted(self, source: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
        self.open += 1
        try:
            async for item in source:
                yield item
        finally:
            self.open -= 1


async def _follow(hub: Hub, accept: Callable[[Event], bool], since: int | None) -> AsyncIterator[ServerSentEvent]:
    with hub.subscribe(since_id=since, buffer=BUFFER, accept=accept) as subscription:
        told = 0
        # A first comment sends the headers at once, so that a reader knows that it is connected.
        yield ServerSentEvent(comment="stockade")
        async for item in subscription:
            if subscription.dropped > told:
                told, lost = subscription.dropped, subscription.dropped - told
                yield ServerSentEvent(event="gap", data=json.dumps({"dropped": lost}))
            yield ServerSentEvent(id=str(item.id), data=json.dumps(event_json(item)))


async def _numbered(lines: AsyncIterator[LogLine]) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(comment="stockade")
    async for line in lines:
        yield ServerSentEvent(data=json.dumps(log_json(line)))
