"""The way of one request to its backend and back: the path that every tools/call takes.

What happens on it, in order: the connection; the request in the backend's era; the wait, with whatever the backend
says meanwhile; the denials that fell on it; the result in the client's era; what is counted of it. The result stays
the bytes that the backend sent unless something in it must change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from opentelemetry.trace import Span, Tracer

from gateway.mcp.call.answer import ClientGone
from gateway.mcp.call.caller import Caller
from gateway.mcp.call.eras import (
    CARRIED,
    MAX_ROUNDS,
    ask_client,
    input_required,
    is_input_required,
    result_to_legacy,
    result_to_modern,
    to_legacy,
    to_modern,
)
from gateway.mcp.call.inflight import InFlight, InFlightCall
from gateway.mcp.call.messages import Call, Peer
from gateway.mcp.call.outcome import Failure, Outcome, Result, refused
from gateway.mcp.call.parked import ParkingLot, Seal, abandon, binding
from gateway.mcp.call.sessions import Cancellable
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.view.annotate import annotate_error, annotate_result, short
from gateway.mcp.wire.errors import (
    INTERNAL_ERROR,
    REQUEST_CANCELLED,
    ConnectFailed,
    PeerClosed,
    RpcError,
    session_ended,
    unavailable,
)
from gateway.mcp.wire.tasks import Tasks
from observability import spans
from observability.events import CallEvent, Event
from observability.instruments import Meters
from observability.labels import METHODS, one_of

GONE: Final = "client_gone"
SESSION_NOTE: Final = "stockade/session"
"""Where a result's `_meta` says that it comes from another process than the session had before."""
_MAX_STATE: Final = 1024 * 1024
_MAX_RESENT: Final = 2
"""How often a request is sent again that the backend refused without running it."""


class Fence(Protocol):
    """The egress link, as far as this package looks."""

    def pending(self) -> bool:
        """Whether the egress has decided something that we have not heard of yet."""
        ...

    async def settle(self, timeout_s: float = 0.25) -> None:
        """Wait until it is heard."""
        ...


class Errand:
    """One request on its way."""

    __slots__ = (
        "backend",
        "caller",
        "error",
        "key",
        "label",
        "method",
        "note",
        "params",
        "record",
        "span",
        "started",
    )

    def __init__(
        self, caller: Caller, backend: Backend, method: str, params: dict[str, Any], key: str, label: str
    ) -> None:
        self.caller = caller
        self.backend = backend
        self.method = method
        self.params = params
        self.key = key
        """The tool, prompt or URI as the backend names it."""
        self.label = label
        """The tool's name if it is a known one: text that may become a metric's label."""
        self.error = ""
        self.note = ""
        """What its client should know of the session: the state of an earlier call is gone."""
        self.started = time.perf_counter()
        self.record: InFlightCall | None = None
        self.span: Span = spans.NO_SPAN


class Calls:
    """Carries requests."""

    def __init__(
        self,
        *,
        inflight: InFlight,
        fence: Fence,
        emit: Callable[[Event], object],
        meters: Meters,
        tracer: Tracer | None,
        tasks: Tasks,
    ) -> None:
        self.inflight = inflight
        self.parking = ParkingLot(inflight.finish)
        self.annotate = True
        self._seal = Seal()
        self._fence = fence
        self._emit = emit
        self._meters = meters
        self._tracer = tracer
        self._tasks = tasks

    async def run(
        self, caller: Caller, backend: Backend, method: str, params: dict[str, Any], *, key: str = "", label: str = ""
    ) -> Outcome:
        """Send the request; its outcome in the client's era. Raises ClientGone."""
        errand = Errand(caller, backend, method, params, key, label)
        peer: Peer | None = None
        if self._tracer is not None:
            self._start_span(errand)
        try:
            peer = backend.ready(caller) or await self._opened(errand)
            outcome = self._finished(errand, await self._carry(errand, peer), peer)
        except RpcError as error:
            outcome = self._failed(errand, refused(error))
        except ClientGone:
            errand.error = GONE
            raise
        finally:
            self._count(errand, peer)
        return outcome

    def _start_span(self, errand: Errand) -> None:
        caller = errand.caller
        meta = errand.params.get("_meta")
        info = spans.CallInfo(
            method=one_of(errand.method, METHODS),
            tool=errand.label,
            request_id=str(caller.request_id),
            backend=errand.backend.name,
            client=caller.principal.client,
            protocol_version=caller.version,
            session_id=caller.session.id if caller.session is not None else "",
        )
        meta = meta if isinstance(meta, dict) else {}
        errand.span = spans.server_span(self._tracer, info, meta=meta, headers=caller.headers)

    # the wait

    async def _opened(self, errand: Errand, call: Call | None = None) -> Peer:
        """The caller's connection, opened first. Raises RpcError, also when the client cancels, and ClientGone."""
        caller, backend = errand.caller, errand.backend
        if (peer := backend.ready(caller)) is not None:
            return peer
        if (farewell := backend.farewell(caller)) is not None:
            if farewell.refuse:
                raise session_ended(backend.name, farewell.why)
            errand.note = farewell.why
        waiting = call or Call(backend.name, errand.method, {}, caller, None)
        calls: dict[Any, Cancellable] = caller.session.calls if caller.session is not None else {}
        calls[caller.request_id] = waiting
        opening = self._tasks.begin(backend.peer(caller))
        opening.add_done_callback(lambda _: caller.answer.wakeup.wake())
        try:
            await caller.answer.until(lambda: opening.done() or waiting.outcome is not None)
        finally:
            if call is None:
                calls.pop(caller.request_id, None)
            opening.cancel()
        if waiting.outcome is not None:
            raise RpcError(REQUEST_CANCELLED, "Request cancelled")
        return opening.result()

    async def _carry(self, errand: Errand, peer: Peer) -> Outcome:
        """The outcome on the backend's side. Raises RpcError, ClientGone."""
        caller, method = errand.caller, errand.method
        state = errand.params.get("requestState") if caller.modern else None
        if isinstance(state, str):
            opened = self._open_state(errand, state)
            if (number := opened.get("park")) is not None:
                return await self._resume(errand, number)
            errand.params = {**errand.params, "requestState": opened["state"]}
        params = errand.params
        if peer.modern is not caller.modern:
            params = to_modern(params, caller) if peer.modern else to_legacy(params)
        if caller.level is not None and caller.modern and not peer.modern:
            await errand.backend.levels.set(peer, caller.level)
        call = self._call(errand, params)
        record = errand.record = InFlightCall(
            errand.backend.name, peer.door, method, str(caller.request_id), errand.key, caller.principal.client
        )
        if self._tracer is not None:
            record.trace = spans.span_ids(errand.span)
        self.inflight.start(record)
        return await self._wait(errand, call, record, peer)

    def _call(self, errand: Errand, params: dict[str, Any]) -> Call:
        call = Call(errand.backend.name, errand.method, params, errand.caller, errand.backend.call_timeout_s)
        call.parent, call.label = errand.span, errand.label
        return call

    async def _wait(self, errand: Errand, call: Call, record: InFlightCall, peer: Peer | None) -> Outcome:
        caller = errand.caller
        session = caller.session
        parked = False
        if session is not None:
            session.calls[caller.request_id] = call
        try:
            if peer is not None:
                await self._send(errand, call, peer)
            await caller.answer.until(lambda: call.outcome is not None or bool(call.questions))
            outcome = await self._rounds(errand, call)
            if outcome is None:
                outcome = self._park(errand, call, record)
                parked = True
            if self._fence.pending():
                await self._fence.settle()
            return outcome
        finally:
            if session is not None:
                session.calls.pop(caller.request_id, None)
            if not parked:
                if call.outcome is None:
                    abandon(call, "the client went away")
                self.inflight.finish(record)

    async def _send(self, errand: Errand, call: Call, peer: Peer) -> None:
        """Send; once more over a new connection where the old one turned out to be gone before anything was sent."""
        for attempt in (1, 2):
            try:
                await peer.send(call)
                return
            except PeerClosed as error:
                if attempt == 2:
                    raise unavailable(errand.backend.name, str(error)) from error
                if isinstance(error, ConnectFailed):
                    errand.backend.lost(peer)
                peer = await self._opened(errand, call)

    async def _rounds(self, errand: Errand, call: Call) -> Outcome | None:
        """Answer a modern backend's questions for a legacy client; None when the client itself must come back."""
        caller = errand.caller
        resent = 0
        for number in range(MAX_ROUNDS + 1):
            outcome = call.outcome
            if outcome is None:
                return None
            if isinstance(outcome, Failure):
                if not outcome.not_run or resent == _MAX_RESENT:
                    return outcome
                resent += 1
                call = await self._again(errand, call, call.params)
            elif caller.modern or not is_input_required(outcome.value):
                return outcome
            elif number == MAX_ROUNDS:
                text = f"Backend {call.backend} asked for input more than {MAX_ROUNDS} times"
                return refused(RpcError(INTERNAL_ERROR, text))
            else:
                params = {key: value for key, value in call.params.items() if key not in CARRIED}
                answers = await ask_client(call, caller, outcome.value, number)
                call = await self._again(errand, call, {**params, **answers})
            await caller.answer.until(lambda call=call: call.outcome is not None or bool(call.questions))  # type: ignore[misc]
        return None

    async def _again(self, errand: Errand, call: Call, params: dict[str, Any]) -> Call:
        caller = errand.caller
        again = self._call(errand, params)
        if caller.session is not None:
            caller.session.calls[caller.request_id] = again
        await self._send(errand, again, await self._opened(errand, again))
        return again

    # parked calls

    def _binding(self, errand: Errand) -> str:
        return binding(errand.caller.principal, errand.backend.name, errand.method, errand.key)

    def _open_state(self, errand: Errand, state: str) -> dict[str, Any]:
        if len(state) > _MAX_STATE:
            raise RpcError(-32602, "Invalid requestState")
        return self._seal.open(state, self._binding(errand))

    def _park(self, errand: Errand, call: Call, record: InFlightCall) -> Outcome:
        number = self.parking.park(call, record, errand.caller.principal)
        state = self._seal.close({"park": number}, self._binding(errand))
        return Result(input_required(call.questions, state))

    async def _resume(self, errand: Errand, number: str) -> Outcome:
        parked = self.parking.resume(number, errand.caller.principal)
        call = parked.call
        call.caller, call.wakeup = errand.caller, errand.caller.answer.wakeup
        errand.record = parked.record
        responses = errand.params.get("inputResponses")
        for key, response in (responses if isinstance(responses, dict) else {}).items():
            question = call.questions.pop(key, None)
            if question is not None and not question.answer.done() and isinstance(response, dict):
                question.answer.set_result(response)
        return await self._wait(errand, call, parked.record, None)

    # the answer

    def _failed(self, errand: Errand, failure: Failure) -> Failure:
        errand.error = failure.label
        record = errand.record
        if record is None or not record.denials or not self.annotate:
            return failure
        return replace(failure, error=annotate_error(failure.error, record.denials))

    def _finished(self, errand: Errand, outcome: Outcome, peer: Peer) -> Outcome:
        """The outcome in the client's era. A result that nothing changes stays the bytes that the backend sent."""
        if isinstance(outcome, Failure):
            return self._failed(errand, outcome)
        caller, denials = errand.caller, errand.record.denials if errand.record is not None else []
        result = outcome.value
        if result.get("isError") is True:
            errand.error = "tool_error"
        if peer.modern is not caller.modern:
            result = result_to_modern(result, errand.method) if caller.modern else result_to_legacy(result)
        elif caller.modern:
            result = self._mirrored(errand, result)
        if denials and self.annotate:
            result = annotate_result(result, denials)
        if errand.note:
            meta = result.get("_meta")
            result = {**result, "_meta": {**(meta if isinstance(meta, dict) else {}), SESSION_NOTE: errand.note}}
        return outcome if result is outcome.value else Result(result)

    def _mirrored(self, errand: Errand, result: dict[str, Any]) -> dict[str, Any]:
        """A modern backend's result for a modern client: its state is sealed, and nothing filtered is public."""
        if result.get("resultType") == "input_required":
            state = result.get("requestState")
            if isinstance(state, str):
                sealed = self._seal.close({"state": state}, self._binding(errand))
                result = {**result, "requestState": sealed}
        elif errand.caller.view.restricted and result.get("cacheScope") == "public":
            result = {**result, "cacheScope": "private"}
        return result

    def _count(self, errand: Errand, peer: Peer | None) -> None:
        caller, backend, record = errand.caller, errand.backend.name, errand.record
        duration_s = time.perf_counter() - errand.started
        transport = peer.transport if peer is not None else ""
        client = caller.principal.client
        self._meters.observe_call(
            method=errand.method,
            tool=errand.label,
            backend=backend,
            client=client,
            error=errand.error,
            duration_s=duration_s,
            transport="tcp",
        )
        if record is not None:
            self._meters.observe_client_call(
                method=errand.method, backend=backend, error=errand.error, duration_s=duration_s, transport=transport
            )
        if self._tracer is not None:
            spans.finish(errand.span, error=errand.error)
        self._emit(
            CallEvent(
                time=time.time(),
                request_id=str(caller.request_id),
                method=errand.method,
                backend=backend,
                client=client,
                tool=errand.label,
                duration_s=duration_s,
                error=errand.error,
                protocol_version=caller.version,
                transport=transport,
                denied=short(record.denials) if record is not None and record.denials else (),
            )
        )
