"""One request to its backend and back: the path of every tools/call.

In order: the connection; the request in the backend's generation of the protocol; the wait, with the messages that the
backend sends meanwhile; the denials that happened during the call; the result in the client's generation; metrics and the
event. A result stays the bytes that the backend sent unless something in it must change.
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
from gateway.mcp.call.outcome import ErrorKind, Failure, Outcome, Result, refused
from gateway.mcp.call.parked import ParkingLot, Seal, binding
from gateway.mcp.call.sessions import Cancellable
from gateway.mcp.call.swallowed import Swallowed
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.view.annotate import annotate_error, annotate_result, short, text_of, with_line
from gateway.mcp.wire.errors import (
    BACKEND_UNAVAILABLE,
    INTERNAL_ERROR,
    REQUEST_CANCELLED,
    ConnectFailed,
    PeerClosed,
    RpcError,
    session_ended,
    unavailable,
)
from gateway.mcp.wire.tasks import Tasks
from gateway.runtime.sandbox.unwritten import for_model, unusable
from observability import spans
from observability.events import CallEvent, Event
from observability.instruments import Meters
from observability.labels import METHODS, one_of
from registry.model.errors import ConfigError
from registry.model.sources import RemoteSource
from registry.model.spec import plan_source

GONE: Final = "client_gone"
SESSION_NOTE: Final = "stockade/session"
"""Key of a result's `_meta`: the result comes from another process than the session had before."""
_MAX_STATE: Final = 1024 * 1024
_MAX_RESENT: Final = 2
"""How often a request is sent again that the backend refused without running it."""


class EventBarrier(Protocol):
    """The part of the egress link that calls need: a result must not overtake the events of its connections."""

    def pending(self) -> bool:
        """Whether the egress has made a decision whose event has not arrived yet."""
        ...

    async def settle(self, timeout_s: float = 0.25) -> None:
        """Wait until its event has arrived."""
        ...


class CallContext:
    """One client request on its way to a backend."""

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
        """A note for the client: why the state of its earlier calls is gone."""
        self.started = time.perf_counter()
        self.record: InFlightCall | None = None
        self.span: Span = spans.NO_SPAN


class Calls:
    """Sends clients' requests to backends and brings back their outcomes."""

    def __init__(
        self,
        *,
        inflight: InFlight,
        barrier: EventBarrier,
        emit: Callable[[Event], object],
        meters: Meters,
        tracer: Tracer | None,
        tasks: Tasks,
    ) -> None:
        self.inflight = inflight
        self.parking = ParkingLot(inflight.finish)
        self.annotate = True
        self._seal = Seal()
        self._swallowed = Swallowed(inflight.background)
        self._barrier = barrier
        self._emit = emit
        self._meters = meters
        self._tracer = tracer
        self._tasks = tasks

    async def run(
        self, caller: Caller, backend: Backend, method: str, params: dict[str, Any], *, key: str = "", label: str = ""
    ) -> Outcome:
        """Send the request; returns its outcome for the client. Raises ClientGone."""
        context = CallContext(caller, backend, method, params, key, label)
        peer: Peer | None = None
        if self._tracer is not None:
            self._start_span(context)
        try:
            peer = backend.ready(caller) or await self._opened(context)
            outcome = self._finished(context, await self._carry(context, peer), peer)
        except RpcError as error:
            outcome = self._failed(context, refused(error))
        except ClientGone:
            context.error = GONE
            raise
        finally:
            self._count(context, peer)
        return outcome

    def _start_span(self, context: CallContext) -> None:
        caller = context.caller
        meta = context.params.get("_meta")
        info = spans.CallInfo(
            method=one_of(context.method, METHODS),
            tool=context.label,
            request_id=str(caller.request_id),
            backend=context.backend.name,
            client=caller.principal.client,
            protocol_version=caller.version,
            session_id=caller.session.id if caller.session is not None else "",
        )
        meta = meta if isinstance(meta, dict) else {}
        context.span = spans.server_span(self._tracer, info, meta=meta, headers=caller.headers)

    # the wait

    async def _opened(self, context: CallContext, call: Call | None = None) -> Peer:
        """The caller's connection, opened if need be. Raises RpcError, also when the client cancels, and ClientGone."""
        caller, backend = context.caller, context.backend
        if (peer := backend.ready(caller)) is not None:
            return peer
        if (farewell := backend.farewell(caller)) is not None:
            if farewell.refuse:
                raise session_ended(backend.name, farewell.why)
            context.note = farewell.why
        waiting = call or Call(backend.name, context.method, {}, caller, None)
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
        return await backend.outcome(opening)

    async def _carry(self, context: CallContext, peer: Peer) -> Outcome:
        """The outcome on the backend's side. Raises RpcError, ClientGone."""
        caller, method = context.caller, context.method
        state = context.params.get("requestState") if caller.modern else None
        if isinstance(state, str):
            opened = self._open_state(context, state)
            if (number := opened.get("park")) is not None:
                return await self._resume(context, number)
            context.params = {**context.params, "requestState": opened["state"]}
        params = context.params
        if peer.modern is not caller.modern:
            params = to_modern(params, caller) if peer.modern else to_legacy(params)
        if caller.level is not None and caller.modern and not peer.modern:
            await context.backend.levels.set(peer, caller.level)
        call = self._call(context, params)
        record = context.record = InFlightCall(
            context.backend.name, peer.door, method, str(caller.request_id), context.key, caller.principal.client
        )
        if self._tracer is not None:
            record.trace = spans.span_ids(context.span)
        self.inflight.start(record)
        return await self._wait(context, call, record, peer)

    def _call(self, context: CallContext, params: dict[str, Any]) -> Call:
        call = Call(context.backend.name, context.method, params, context.caller, context.backend.call_timeout_s)
        call.parent, call.label = context.span, context.label
        return call

    async def _wait(self, context: CallContext, call: Call, record: InFlightCall, peer: Peer | None) -> Outcome:
        caller = context.caller
        session = caller.session
        parked = False
        if session is not None:
            session.calls[caller.request_id] = call
        try:
            if peer is not None:
                await self._send(context, call, peer)
            await caller.answer.until(lambda: call.outcome is not None or bool(call.questions))
            outcome = await self._rounds(context, call)
            if outcome is None:
                outcome = self._park(context, call, record)
                parked = True
            if self._barrier.pending():
                await self._barrier.settle()
            return outcome
        finally:
            if session is not None:
                session.calls.pop(caller.request_id, None)
            if not parked:
                if call.outcome is None:
                    call.abandon("the client went away")
                self.inflight.finish(record)

    async def _send(self, context: CallContext, call: Call, peer: Peer) -> None:
        """Send the call; a second time over a new connection if the old one was gone before anything was sent."""
        for attempt in (1, 2):
            context.backend.stay(context.caller, peer)
            try:
                await peer.send(call)
                return
            except PeerClosed as error:
                if attempt == 2:
                    raise unavailable(context.backend.name, str(error)) from error
                if isinstance(error, ConnectFailed):
                    context.backend.lost(peer)
                peer = await self._opened(context, call)

    async def _rounds(self, context: CallContext, call: Call) -> Outcome | None:
        """Put a modern backend's questions to a legacy client; None when the client itself must call again."""
        caller = context.caller
        resent = 0
        for number in range(MAX_ROUNDS + 1):
            outcome = call.outcome
            if outcome is None:
                return None
            if isinstance(outcome, Failure):
                if not outcome.not_run or resent == _MAX_RESENT:
                    return outcome
                resent += 1
                call = await self._again(context, call, call.params)
            elif caller.modern or not is_input_required(outcome.value):
                return outcome
            elif number == MAX_ROUNDS:
                text = f"Server {call.backend} asked for input more than {MAX_ROUNDS} times"
                return refused(RpcError(INTERNAL_ERROR, text))
            else:
                params = {key: value for key, value in call.params.items() if key not in CARRIED}
                answers = await ask_client(call, caller, outcome.value, number)
                call = await self._again(context, call, {**params, **answers})
            await caller.answer.until(lambda call=call: call.outcome is not None or bool(call.questions))  # type: ignore[misc]
        return None

    async def _again(self, context: CallContext, call: Call, params: dict[str, Any]) -> Call:
        caller = context.caller
        again = self._call(context, params)
        if caller.session is not None:
            caller.session.calls[caller.request_id] = again
        await self._send(context, again, await self._opened(context, again))
        return again

    # parked calls

    def _binding(self, context: CallContext) -> str:
        return binding(context.caller.principal, context.backend.name, context.method, context.key)

    def _open_state(self, context: CallContext, state: str) -> dict[str, Any]:
        if len(state) > _MAX_STATE:
            raise RpcError(-32602, "Invalid requestState")
        return self._seal.open(state, self._binding(context))

    def _park(self, context: CallContext, call: Call, record: InFlightCall) -> Outcome:
        number = self.parking.park(call, record, context.caller.principal)
        state = self._seal.close({"park": number}, self._binding(context))
        return Result(input_required(call.questions, state))

    async def _resume(self, context: CallContext, number: str) -> Outcome:
        parked = self.parking.resume(number, context.caller.principal)
        call = parked.call
        call.caller, call.wakeup = context.caller, context.caller.answer.wakeup
        context.record = parked.record
        responses = context.params.get("inputResponses")
        for key, response in (responses if isinstance(responses, dict) else {}).items():
            question = call.questions.pop(key, None)
            if question is not None and not question.answer.done() and isinstance(response, dict):
                question.answer.set_result(response)
        return await self._wait(context, call, parked.record, None)

    # the answer

    def _failed(self, context: CallContext, failure: Failure) -> Failure:
        context.error = failure.label
        denials = context.record.denials if context.record is not None else []
        if not denials and failure.error.get("code") == BACKEND_UNAVAILABLE:
            denials = self.inflight.background.denials(context.backend.name)
        if not self.annotate:
            return failure
        if failure.kind is ErrorKind.ANSWERED:
            said = str(failure.error.get("message", ""))
            if line := self._unwritten(context, said):
                failure = replace(failure, error={**failure.error, "message": f"{said}\n{line}"})
        return replace(failure, error=annotate_error(failure.error, denials)) if denials else failure

    def _unwritten(self, context: CallContext, said: str) -> str:
        """The line for an error in which the server says that it could not write; empty where it says no such thing."""
        found = unusable(said)
        if found is None:
            return ""
        try:
            source = plan_source(context.backend.server)
        except ConfigError:  # a file of variables that it names is gone
            return ""
        return "" if isinstance(source, RemoteSource) else for_model(found, source, context.backend.name)

    def _finished(self, context: CallContext, outcome: Outcome, peer: Peer) -> Outcome:
        """The outcome for the client. An unchanged result stays the bytes that the backend sent."""
        if isinstance(outcome, Failure):
            return self._failed(context, outcome)
        caller, denials = context.caller, context.record.denials if context.record is not None else []
        result = outcome.value
        if result.get("isError") is True:
            context.error = "tool_error"
        if peer.modern is not caller.modern:
            result = result_to_modern(result, context.method) if caller.modern else result_to_legacy(result)
        elif caller.modern:
            result = self._mirrored(context, result)
        if context.error and self.annotate and (line := self._unwritten(context, text_of(result))):
            result = with_line(result, line)
        if denials and self.annotate:
            news = self._swallowed.news(caller, denials) if context.method == "tools/call" else ()
            result = annotate_result(result, denials, news)
        if context.note:
            meta = result.get("_meta")
            result = {**result, "_meta": {**(meta if isinstance(meta, dict) else {}), SESSION_NOTE: context.note}}
        return outcome if result is outcome.value else Result(result)

    def _mirrored(self, context: CallContext, result: dict[str, Any]) -> dict[str, Any]:
        """A modern backend's result for a modern client: its state is sealed, and a filtered result is never public."""
        if result.get("resultType") == "input_required":
            state = result.get("requestState")
            if isinstance(state, str):
                sealed = self._seal.close({"state": state}, self._binding(context))
                result = {**result, "requestState": sealed}
        elif context.caller.view.restricted and result.get("cacheScope") == "public":
            result = {**result, "cacheScope": "private"}
        return result

    def _count(self, context: CallContext, peer: Peer | None) -> None:
        caller, backend, record = context.caller, context.backend.name, context.record
        duration_s = time.perf_counter() - context.started
        transport = peer.transport if peer is not None else ""
        client = caller.principal.client
        self._meters.observe_call(
            method=context.method,
            tool=context.label,
            backend=backend,
            client=client,
            error=context.error,
            duration_s=duration_s,
            transport="tcp",
        )
        if record is not None:
            self._meters.observe_client_call(
                method=context.method,
                backend=backend,
                error=context.error,
                duration_s=duration_s,
                transport=transport,
            )
        if self._tracer is not None:
            spans.finish(context.span, error=context.error)
        self._emit(
            CallEvent(
                time=time.time(),
                request_id=str(caller.request_id),
                method=context.method,
                backend=backend,
                client=client,
                tool=context.label,
                duration_s=duration_s,
                error=context.error,
                protocol_version=caller.version,
                transport=transport,
                denied=short(record.denials) if record is not None and record.denials else (),
            )
        )
