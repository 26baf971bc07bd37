"""The messages that a backend sends of its own accord, and which client each of them goes to.

The rule: to the client whose call caused it, and to no other. On HTTP the call's own stream shows which call that is. A
connection that belongs to one session has only that client. On a shared pipe a message names no call, so it is delivered
only while exactly one call is in flight; otherwise a request is refused and a notification dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from gateway.mcp.call.caller import ANSWER_S, Caller, required_capability
from gateway.mcp.call.messages import META_SUBSCRIPTION, Call, Peer, Question
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.sessions import Session
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.view.listing import CHANGED
from gateway.mcp.wire import codec
from gateway.mcp.wire.coalesce import Coalesced
from gateway.mcp.wire.errors import INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, RpcError
from observability.events import Event, NoticeEvent, Severity, cut

logger = logging.getLogger(__name__)

_ASKABLE: Final = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})
_RELATED: Final = "io.modelcontextprotocol/related-task"
_SILENT_S: Final = 60.0
_MESSAGE_LIMIT: Final = 400
"""Characters of a notice about what a backend sent: the words in it are its own."""


class Outlets(Protocol):
    """Where messages that belong to no call go."""

    def session(self, session_id: str) -> Session | None:
        """An open client session."""
        ...

    def lists_changed(self, backend: str, method: str, owner: str) -> None:
        """A backend's list changed; `owner` is the session whose own connection reported it, or empty."""
        ...

    def resource_updated(self, backend: str, params: dict[str, Any], owner: str) -> None:
        """A watched resource changed."""
        ...

    def is_anothers_task(self, task_id: str, principal: Principal, backend: str) -> bool:
        """Whether another principal began a backend's task."""
        ...


class ServerMessages:
    """The sink of one backend's connections."""

    def __init__(self, name: str, outlets: Outlets, emit: Callable[[Event], object]) -> None:
        self.name = name
        self.backend: Backend | None = None
        self.refused = 0
        """Number of messages that could not be matched to one call."""
        self._outlets = outlets
        self._emit = emit
        self._quiet_until: dict[str, float] = {}
        self._skipped: dict[str, int] = {}
        self._asked = 0
        self._changes = Coalesced()
        """A list that changes again and again is read, and its change reported, once in an interval."""

    # notifications

    def on_notification(self, peer: Peer, method: str, params: dict[str, Any], call: Call | None) -> None:
        """Deliver a notification."""
        if method == "notifications/progress":
            self._progress(peer, params)
        elif method in CHANGED:
            self._changes.ask((peer, method), partial(self._changed, peer, method))
        elif method == "notifications/resources/updated":
            self._outlets.resource_updated(self.name, params, peer.session)
        elif method == "notifications/subscriptions/acknowledged":
            if (subscription := peer.calls.get(_subscription(params))) is not None:
                subscription.acknowledge()
        elif method == "notifications/cancelled" or _subscription(params) is not None:
            return
        else:
            self._deliver(peer, method, params, call)

    def _changed(self, peer: Peer, method: str) -> None:
        if self.backend is not None:
            self.backend.catalog.stale(CHANGED[method], peer)
        self._outlets.lists_changed(self.name, method, peer.session)

    def _progress(self, peer: Peer, params: dict[str, Any]) -> None:
        """Progress names its call: by our own number, which replaced the client's token."""
        token = params.get("progressToken")
        call = peer.calls.get(token) if type(token) is int else None
        if call is None or call.token is None:
            return
        if call.outcome is None and not call.questions:
            call.start_clock()
        if call.caller is not None:
            call.caller.notify("notifications/progress", {**params, "progressToken": call.token})

    def _deliver(self, peer: Peer, method: str, params: dict[str, Any], call: Call | None) -> None:
        target = call or self._only(peer, params)
        if target is not None and target.caller is not None:
            if method != "notifications/message" or target.caller.wants(params.get("level")):
                target.caller.notify(method, params)
            return
        session = self._outlets.session(peer.session) if peer.session else None
        if session is None:
            self.refused += 1
            self._notice("unattributed", f"{method} names no call and {_in_flight(peer)} are in flight: dropped")
        elif not self._on_newest(peer, method, params):
            session.push(codec.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    def _on_newest(self, peer: Peer, method: str, params: dict[str, Any]) -> bool:
        """All calls of this connection are one session's: any of its streams reaches the right client."""
        for call in reversed(peer.calls.values()):
            if call.caller is not None:
                return call.caller.notify(method, params)
        return False

    # requests

    async def on_request(self, peer: Peer, method: str, params: dict[str, Any], call: Call | None) -> dict[str, Any]:
        """Answer a backend's request by asking the client that it is for. Raises RpcError."""
        if method == "ping":
            return {}
        if method not in _ASKABLE:
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")
        if self.backend is not None:
            self.backend.saw_push()
        target = call or self._only(peer, params)
        if target is None and peer.session:
            return await self._ask_session(peer, method, params)
        if target is None or target.caller is None:
            self.refused += 1
            why = f"{method} names no call and {_in_flight(peer)} are in flight, so its client is unknown"
            self._notice("unattributed", f"{why}: refused. Set sessions: per-client for {self.name}")
            raise RpcError(INVALID_REQUEST, f"Stockade: {why}")
        return await self._ask(target, target.caller, method, params)

    async def _ask(self, call: Call, caller: Caller, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if not caller.can(method, params):
            needs = required_capability(method, params)
            raise RpcError(METHOD_NOT_FOUND, f"The client does not support {method}", {"requiredCapabilities": needs})
        call.stop_clock()
        try:
            async with asyncio.timeout(ANSWER_S):
                if caller.modern:
                    return await self._question(call, method, params)
                answer = caller.ask(method, params)
                call.asked.add(answer)
                answer.add_done_callback(call.asked.discard)
                return await answer
        except TimeoutError:
            raise RpcError(INTERNAL_ERROR, f"The client did not answer {method} within {ANSWER_S:g} s") from None
        finally:
            if call.outcome is None:
                call.start_clock()

    async def _question(self, call: Call, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """A modern client gets the question in an `input_required` result and answers by calling again."""
        self._asked += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        question = Question(f"q{self._asked}", method, params, future)
        call.ask(question)
        try:
            return await future
        finally:
            call.questions.pop(question.key, None)

    async def _ask_session(self, peer: Peer, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The connection belongs to one session: the question goes to one of its calls, else to its GET stream."""
        for call in reversed(peer.calls.values()):
            if call.caller is not None:
                return await self._ask(call, call.caller, method, params)
        session = self._outlets.session(peer.session)
        if session is None or session.stream is None:
            raise RpcError(INTERNAL_ERROR, f"the client cannot be asked {method} now")
        try:
            async with asyncio.timeout(ANSWER_S):
                return await session.ask(method, params, session.stream)
        except TimeoutError:
            raise RpcError(INTERNAL_ERROR, f"The client did not answer {method} within {ANSWER_S:g} s") from None

    def _only(self, peer: Peer, params: Mapping[str, Any]) -> Call | None:
        """The only client call in flight, unless the message is about another principal's task. Our own requests carry no
        client's data, so they do not count."""
        clients = [call for call in peer.calls.values() if call.caller is not None]
        if len(clients) != 1 or peer.abandoned:
            return None
        (only,), task_id = clients, _task_of(params)
        if task_id is None or peer.session or only.caller is None:
            return only
        return None if self._outlets.is_anothers_task(task_id, only.caller.principal, self.name) else only

    # the connection itself

    def on_closed(self, peer: Peer, why: str) -> None:
        """Forget the connection; the next call makes another."""
        logger.info("server %s: %s", self.name, why)
        if self.backend is not None:
            self.backend.gone(peer)

    def on_garbage(self, peer: Peer, what: str, count: int = 1) -> None:
        """Report it, once a minute at most."""
        self._notice("backend_garbage", what, count)

    def slowed(self) -> None:
        """The backend sends so much that no client asked for that it is read more slowly."""
        self._notice(
            "backend_slowed",
            "it sends too much that no client asked for (notifications, requests, lines that are no messages), so it is "
            "read more slowly; its answers may come late",
        )

    def _notice(self, code: str, message: str, count: int = 1) -> None:
        now = time.monotonic()
        self._skipped[code] = self._skipped.get(code, 0) + count
        if now < self._quiet_until.get(code, 0.0):
            return
        self._quiet_until[code] = now + _SILENT_S
        count, self._skipped[code] = self._skipped[code], 0
        self._emit(
            NoticeEvent(
                time=time.time(),
                source="gateway",
                code=code,
                severity=Severity.WARNING,
                backend=self.name,
                message=cut(message, _MESSAGE_LIMIT),
                count=count,
            )
        )


def _task_of(params: Mapping[str, Any]) -> str | None:
    """The task that a message is about (MCP 2025-11-25, tasks: status notifications and related-task metadata)."""
    meta = params.get("_meta")
    related = meta.get(_RELATED) if isinstance(meta, dict) else None
    task_id = related.get("taskId") if isinstance(related, dict) else params.get("taskId")
    return task_id if isinstance(task_id, str) else None


def _in_flight(peer: Peer) -> str:
    count = sum(call.caller is not None for call in peer.calls.values())
    return f"{count} calls{' and one that was given up' if peer.abandoned else ''}"


def _subscription(params: dict[str, Any]) -> Any:
    """The id of the `subscriptions/listen` request whose stream this came on; None if it came on none."""
    meta = params.get("_meta")
    if not isinstance(meta, dict) or META_SUBSCRIPTION not in meta:
        return None
    found = meta[META_SUBSCRIPTION]
    return found if isinstance(found, int | str) else ""
