"""One connection to one backend, as the rest of the endpoint sees it.

A `Peer` carries `Call`s and ends each with an `Outcome`. What the backend sends of its own accord goes to a `Sink`,
with the call that it belongs to where the transport says so (a call's own SSE stream), else with None.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry.trace import Span, Tracer

from gateway.mcp.call.outcome import (
    CallFailed,
    ErrorKind,
    Failure,
    Outcome,
    Result,
    answered,
    broken,
    error_type,
    refused,
)
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INTERNAL_ERROR, REQUEST_CANCELLED, REQUEST_TIMEOUT, RpcError
from gateway.mcp.wire.wakeup import Wakeup
from observability import spans
from observability.labels import METHODS, one_of

if TYPE_CHECKING:
    from gateway.mcp.call.caller import Caller

MODERN: Final = "2026-07-28"
LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LATEST_LEGACY: Final = LEGACY_VERSIONS[-1]
ABANDONED_S: Final = 600.0
MAX_MESSAGE: Final = 16 * 1024 * 1024
"""The largest message taken from a backend, in bytes."""

MAX_PUSHES: Final = 64
"""Requests of a backend that may be open at once: on a pipe, or in one call's stream."""

META: Final = "io.modelcontextprotocol/"
META_VERSION: Final = META + "protocolVersion"
META_CAPABILITIES: Final = META + "clientCapabilities"
META_CLIENT: Final = META + "clientInfo"
META_LEVEL: Final = META + "logLevel"
META_SUBSCRIPTION: Final = META + "subscriptionId"


@dataclass(frozen=True, slots=True)
class About:
    """What a backend declared when it was greeted."""

    modern: bool
    version: str
    info: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    instructions: str | None
    result: Mapping[str, Any]
    """The whole InitializeResult or DiscoverResult."""


@dataclass(eq=False, slots=True)
class Question:
    """A request that a legacy backend made during a call, waiting for the client's answer."""

    key: str
    method: str
    params: Mapping[str, Any]
    answer: asyncio.Future[dict[str, Any]]


class Call:
    """A request on its way to a backend, until its outcome is there."""

    __slots__ = (
        "_timeout_s",
        "_timer",
        "acknowledged",
        "asked",
        "backend",
        "caller",
        "label",
        "method",
        "number",
        "outcome",
        "params",
        "parent",
        "peer",
        "questions",
        "span",
        "token",
        "wakeup",
    )

    def __init__(
        self, backend: str, method: str, params: dict[str, Any], caller: Caller | None, timeout_s: float | None
    ) -> None:
        """`timeout_s` None is for a call without an end of its own (a subscription)."""
        self.backend = backend
        self.method = method
        self.params = params
        self.caller = caller
        self.number = 0
        self.peer: Peer | None = None
        self.token: Any = None
        self.outcome: Outcome | None = None
        self.questions: dict[str, Question] = {}
        self.acknowledged = False
        """The backend acknowledged the subscription."""
        self.asked: set[asyncio.Future[dict[str, Any]]] = set()
        """What its legacy client was asked during the call."""
        self.wakeup = Wakeup() if caller is None else caller.answer.wakeup
        self.label = ""
        """The tool's name if it is a known one: text that may stand in a span's name."""
        self.parent: Span = spans.NO_SPAN
        """The span of the client's request; none for a request of our own."""
        self.span: Span | None = None
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        meta = params.get("_meta")
        if isinstance(meta, dict):
            self.token = meta.get("progressToken")

    def message(self, number: int) -> bytes:
        """The request as bytes under our own id, which also replaces a progress token: no other call has it."""
        self.number = number
        params = self.params
        if self.token is not None:
            params = {**params, "_meta": {**params["_meta"], "progressToken": number}}
        return codec.dumps({"jsonrpc": "2.0", "id": number, "method": self.method, "params": params})

    def trace(self, tracer: Tracer, transport: str) -> None:
        """Start this request's own span, which ends with it. A client's request carries its context on in `_meta`."""
        if self.span is not None:  # it is sent once more, over another connection
            return
        info = spans.CallInfo(
            method=one_of(self.method, METHODS),
            tool=self.label,
            backend=self.backend,
            client=self.caller.principal.client if self.caller is not None else "",
            transport=transport,
        )
        self.span = spans.client_span(tracer, info, parent=self.parent)
        if self.caller is not None:
            meta = self.params.get("_meta")
            meta = dict(meta) if isinstance(meta, dict) else {}
            spans.inject(self.span, meta)
            if meta:
                self.params = {**self.params, "_meta": meta}

    def start_clock(self) -> None:
        """Give the backend the call's timeout to answer, from now; each sign of progress restarts it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire)

    def stop_clock(self) -> None:
        """Stop the timeout: the call waits for its client, not for the backend."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if self.peer is not None and self.outcome is None:
            self.peer.cancel(self, "timed out")
        text = f"Server {self.backend} did not answer {self.method} within {self._timeout_s or 0:g} s"
        self.end(refused(RpcError(REQUEST_TIMEOUT, text, {"backend": self.backend}), ErrorKind.TIMEOUT))

    def end(self, outcome: Outcome) -> None:
        """The outcome is here. Only the first one counts."""
        if self.outcome is None:
            self.outcome = outcome
            if self._timer is not None:
                self._timer.cancel()
            if self.span is not None:
                spans.finish(self.span, error=error_type(outcome))
            self.wakeup.wake()

    def fail(self, why: str, kind: ErrorKind = ErrorKind.UNAVAILABLE) -> None:
        """The connection cannot bring an answer any more; `kind` says whether the backend refused the request."""
        self.end(broken(self.backend, why, kind))

    def take_unsound(self, message: dict[str, Any] | None, error: ValueError) -> None:
        """Take a response that is not valid JSON; `message` is what could be read of it, for a request of our own only."""
        if self.caller is None and message is not None:
            self.end(answered(message))
        else:
            self.fail(f"it answered with something that is not JSON ({error})")

    def acknowledge(self) -> None:
        """The backend acknowledged the subscription that this call asks for."""
        self.acknowledged = True
        self.wakeup.wake()

    def ask(self, question: Question) -> None:
        """The backend asks the client something before it goes on."""
        self.questions[question.key] = question
        self.stop_clock()
        self.wakeup.wake()

    def cancel(self, reason: str) -> None:
        """The client cancelled the call: notify the backend and end it."""
        error = RpcError(REQUEST_CANCELLED, "Request cancelled")
        self._give_up(reason, error, refused(error, ErrorKind.CANCELLED))

    def abandon(self, why: str) -> None:
        """No client waits any more: notify the backend and end the call."""
        self._give_up(why, RpcError(INTERNAL_ERROR, why), broken(self.backend, why))

    def _give_up(self, reason: str, error: RpcError, outcome: Failure) -> None:
        """Refuse what was asked with `error`; a call in flight ends with `outcome`, and its backend hears `reason`."""
        self.refuse_questions(error)
        if self.outcome is None:
            if self.peer is not None:
                self.peer.cancel(self, reason)
            self.end(outcome)

    def refuse_questions(self, error: RpcError) -> None:
        """Refuse all open questions that were asked during the call."""
        for answer in [*self.asked, *(question.answer for question in self.questions.values())]:
            if not answer.done():
                answer.set_exception(error)

    @property
    def settled(self) -> bool:
        """Whether there is an outcome or an open question."""
        return self.outcome is not None or bool(self.questions)

    async def result(self) -> dict[str, Any]:
        """The result of a call that we make for ourselves. Raises CallFailed when its outcome is an error."""
        while self.outcome is None:
            await self.wakeup.wait()
        if isinstance(self.outcome, Result):
            return self.outcome.value
        raise CallFailed(self.outcome)


class AbandonedCalls:
    """Calls that were given up while the backend may still be working on them.

    A message of the backend may belong to one of them. So until it has answered them (many never do) or `ABANDONED_S` has
    passed, no message on a shared connection can be matched to the one call that is left.
    """

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def add(self, number: int) -> None:
        """The call was given up."""
        self._until[number] = time.monotonic() + ABANDONED_S

    def answered(self, number: int) -> bool:
        """The backend answered the call; returns whether there was such a call."""
        return self._until.pop(number, None) is not None

    def __bool__(self) -> bool:
        if not self._until:
            return False
        now = time.monotonic()
        self._until = {number: until for number, until in self._until.items() if until > now}
        return bool(self._until)


class Sink(Protocol):
    """Takes the messages that a backend sends of its own accord."""

    def on_notification(self, peer: Peer, method: str, params: dict[str, Any], call: Call | None) -> None:
        """A notification; `call` if it came on that call's own stream."""

    async def on_request(self, peer: Peer, method: str, params: dict[str, Any], call: Call | None) -> dict[str, Any]:
        """A request; returns its result or raises RpcError."""

    def on_closed(self, peer: Peer, why: str) -> None:
        """The connection ended."""

    def on_garbage(self, peer: Peer, what: str, count: int = 1) -> None:
        """Something that is no message came `count` times."""


class Peer(Protocol):
    """One connection to one backend, in one generation of the protocol."""

    modern: bool
    about: About
    door: str
    transport: str
    """`pipe` or `tcp`."""
    closed: str
    """Why it is closed; empty while it is open."""
    calls: dict[int, Call]
    """The calls in flight, by our own number."""
    abandoned: AbandonedCalls
    session: str
    """The client session that owns it; empty for a shared connection."""

    async def send(self, call: Call) -> None:
        """Send the call; its outcome comes through `call.end`. Raises PeerClosed."""

    async def notify(self, method: str, params: dict[str, Any] | None) -> None:
        """Send a notification. Raises PeerClosed."""

    def cancel(self, call: Call, reason: str) -> None:
        """Notify the backend that this call was given up."""

    async def close(self) -> None:
        """End the connection; calls in flight fail."""


@dataclass(slots=True)
class Greeting:
    """How we introduce ourselves in a legacy greeting."""

    version: str = LATEST_LEGACY
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    client: Mapping[str, Any] = field(default_factory=dict)


SHARED_CAPABILITIES: Final[Mapping[str, Any]] = {
    "sampling": {"context": {}, "tools": {}},
    "elicitation": {"form": {}, "url": {}},
    "roots": {"listChanged": True},
}
"""What a shared legacy connection declares: all that any client may have. One without a capability refuses when asked."""


def envelope(capabilities: Mapping[str, Any], client: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `_meta` that every 2026-07-28 request carries."""
    meta: dict[str, Any] = {META_VERSION: MODERN, META_CAPABILITIES: dict(capabilities)}
    if client:
        meta[META_CLIENT] = dict(client)
    return meta


def about_legacy(result: Mapping[str, Any]) -> About:
    """Read an InitializeResult."""
    return About(
        modern=False,
        version=str(result.get("protocolVersion", "")),
        info=_mapping(result.get("serverInfo")),
        capabilities=_mapping(result.get("capabilities")),
        instructions=_text(result.get("instructions")),
        result=result,
    )


def about_modern(result: Mapping[str, Any]) -> About | None:
    """Read a DiscoverResult; None when it names no version of this generation."""
    versions = result.get("supportedVersions")
    if not isinstance(versions, list) or MODERN not in versions:
        return None
    meta = _mapping(result.get("_meta"))
    return About(
        modern=True,
        version=MODERN,
        info=_mapping(result.get("serverInfo") or meta.get(META + "serverInfo")),
        capabilities=_mapping(result.get("capabilities")),
        instructions=_text(result.get("instructions")),
        result=result,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
