"""Which calls are in flight on which backend, so that an egress decision can be matched to the call that caused it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from typing import Final

from gateway.mcp.call.background import Background
from observability.events import CALLS_LIMIT, CallRef, Certainty, Decision, EgressEvent, Phase

REMEMBER_S: Final = 10.0
"""How long a finished call can still be found for an event that was decided while it ran."""
_FINISHED_CAP: Final = 4096
"""Finished calls of one backend that are remembered."""
_DENIALS_CAP: Final = 50


class InFlightCall:
    """One request on its way: its reference, its backend and door, and the denials that happened while it ran."""

    __slots__ = (
        "_ref", "backend", "client", "denials", "door", "ended", "method", "request_id", "started", "tool", "trace",
    )  # fmt: skip

    def __init__(self, backend: str, door: str, method: str, request_id: str, tool: str, client: str) -> None:
        self.backend = backend
        self.door = door
        self.method = method
        self.request_id = request_id
        self.tool = tool
        self.client = client
        self.trace: tuple[str, str] = ("", "")
        """Of the request's span; set before the call starts."""
        self.started = time.time()
        self.ended: float | None = None
        self.denials: list[tuple[EgressEvent, Certainty]] = []
        self._ref: CallRef | None = None

    def ref(self) -> CallRef:
        """The reference that events carry, made once."""
        if self._ref is None:
            trace_id, span_id = self.trace
            self._ref = CallRef(
                request_id=self.request_id,
                method=self.method,
                tool=self.tool,
                client=self.client,
                trace_id=trace_id,
                span_id=span_id,
            )
        return self._ref

    def ran_at(self, door: str, when: float) -> bool:
        """Whether it was in flight behind `door` (empty: any) at `when`."""
        if door and self.door and door != self.door:
            return False
        return self.started <= when and (self.ended is None or when <= self.ended)


class InFlight:
    """The calls in flight and, for some seconds, the finished ones."""

    def __init__(self) -> None:
        self._running: dict[str, dict[InFlightCall, None]] = {}
        self._finished: dict[str, deque[InFlightCall]] = {}
        self._idle: asyncio.Event | None = None
        self.background = Background()
        """Denials that belong to no call."""

    def start(self, call: InFlightCall) -> None:
        """Count the call as in flight."""
        running = self._running.get(call.backend)
        if running is None:
            running = self._running[call.backend] = {}
            self._finished[call.backend] = deque(maxlen=_FINISHED_CAP)
        running[call] = None

    def finish(self, call: InFlightCall) -> None:
        """The call is over."""
        call.ended = time.time()
        self._running[call.backend].pop(call, None)
        self._finished[call.backend].append(call)
        if self._idle is not None and not self.count():
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no call is in flight."""
        while self.count():
            self._idle = asyncio.Event()
            await self._idle.wait()

    def count(self) -> int:
        """How many calls are in flight in all."""
        return sum(map(len, self._running.values()))

    def calls_at(self, backend: str, door: str, when: float) -> tuple[CallRef, ...]:
        """The calls that were in flight on the backend at the Unix time `when`."""
        return tuple(call.ref() for call in self._at(backend, door, when))

    def attribute(self, event: EgressEvent) -> EgressEvent:
        """The event with the calls that were in flight, a few of them by name; each call remembers a denial."""
        calls = self._at(event.backend, event.door, event.time)
        if calls:
            self._tell(event, calls)
        elif is_denial(event):
            self.background.note(event)
        named = few(calls)
        return replace(event, calls=tuple(call.ref() for call in named), more_calls=len(calls) - len(named))

    def _at(self, backend: str, door: str, when: float) -> list[InFlightCall]:
        """Running calls, newest first, then finished ones."""
        found = [call for call in reversed(self._running.get(backend, {})) if call.ran_at(door, when)]
        horizon = max(when, time.time() - REMEMBER_S)
        for call in reversed(self._finished.get(backend, ())):
            if call.ended is None or call.ended < horizon:
                break
            if call.ran_at(door, when):
                found.append(call)
        return found

    def note_denial(self, event: EgressEvent) -> None:
        """Remember a denied connection with each call it may belong to; certain when there is exactly one."""
        self._tell(event, self._at(event.backend, event.door, event.time))

    def _tell(self, event: EgressEvent, calls: list[InFlightCall]) -> None:
        if not is_denial(event):
            return
        certainty = Certainty.CERTAIN if len(calls) == 1 else Certainty.PROBABLE
        for call in calls:
            if len(call.denials) < _DENIALS_CAP and all(e.connection != event.connection for e, _ in call.denials):
                call.denials.append((event, certainty))


def is_denial(event: EgressEvent) -> bool:
    """Whether the event says that a connection was refused, or cut."""
    return event.decision is Decision.DENY and not (event.phase is Phase.CLOSED and event.duration_s is None)


def few(calls: list[InFlightCall]) -> list[InFlightCall]:
    """At most `CALLS_LIMIT` calls, the first of each client before the others: no client hides another's call."""
    if len(calls) <= CALLS_LIMIT:
        return calls
    first: dict[str, InFlightCall] = {}
    for call in calls:
        first.setdefault(call.client, call)
    chosen = [*first.values(), *(call for call in calls if first[call.client] is not call)]
    return chosen[:CALLS_LIMIT]
