"""Clients of 2026-07-28: each request is independent of all others."""

from __future__ import annotations

from typing import Any

from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request

from gateway.mcp.call.answer import Answer, Form, Receive, Send, reply_plain
from gateway.mcp.call.caller import LEVELS, Caller
from gateway.mcp.call.messages import META_CAPABILITIES, META_CLIENT, META_LEVEL, MODERN
from gateway.mcp.call.principal import Principal
from gateway.mcp.downstream.front import Look, answer, read_message
from gateway.mcp.downstream.http import Refused, accepts_stream, refusing
from gateway.mcp.downstream.shape import sound
from gateway.mcp.route.route import Router
from gateway.mcp.view.views import View
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INVALID_PARAMS, STATUS, UNSUPPORTED_VERSION, RpcError
from gateway.mcp.wire.tasks import Tasks


class ModernFront:
    """Serves modern clients."""

    def __init__(self, router: Router, tasks: Tasks) -> None:
        self._router = router
        self._tasks = tasks
        self.max_body_bytes = 0

    async def serve(
        self,
        method: str,
        principal: Principal,
        look: Look,
        version: str,
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        """One HTTP request. Raises Refused, Denied, EOFError."""
        if method != "POST":
            raise Refused(405, "Method Not Allowed", allow="POST")
        body, form = await read_message(headers, receive, self.max_body_bytes)
        message = sound(body)
        with refusing(message):
            await self._message(message, form, principal, look, version, headers, receive, send)

    async def _message(
        self,
        message: dict[str, Any],
        form: Form,
        principal: Principal,
        look: Look,
        version: str,
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        if "id" not in message:
            if version != MODERN:
                supported = {"supported": [MODERN], "requested": version}
                raise Refused(400, "Unsupported protocol version", UNSUPPORTED_VERSION, data=supported)
            await reply_plain(send, 202)
            return
        if "method" not in message:
            raise Refused(400, "Body must be a single JSON-RPC request or notification object")
        verdict = classify_inbound_request(message, headers=headers)
        error = None
        if isinstance(verdict, InboundLadderRejection):
            error = RpcError(verdict.code, verdict.message, verdict.data)
        elif (message["params"]["_meta"].get(META_LEVEL) or LEVELS[0]) not in LEVELS:
            error = RpcError(INVALID_PARAMS, f"{META_LEVEL} must be one of {', '.join(LEVELS)}")
        if error is not None:
            body = codec.error_response(message["id"], error.body())
            await reply_plain(send, STATUS.get(error.code, 200), body)
            return
        if message["method"] == "subscriptions/listen":
            if not accepts_stream(headers):
                raise Refused(406, "Not Acceptable: Client must accept text/event-stream")
            form = Form.STREAM
        reply = Answer(receive, send, self._tasks, [], form)
        caller = self._caller(message, principal, look(), version, headers, reply)
        await answer(self._router, caller, message["method"], message["params"])

    def _caller(
        self,
        message: dict[str, Any],
        principal: Principal,
        view: View,
        version: str,
        headers: dict[str, str],
        reply: Answer,
    ) -> Caller:
        meta = message["params"]["_meta"]
        capabilities, client, level = meta[META_CAPABILITIES], meta.get(META_CLIENT), meta.get(META_LEVEL)
        return Caller(
            principal=principal,
            view=view,
            modern=True,
            version=version,
            answer=reply,
            request_id=message["id"],
            capabilities=capabilities if isinstance(capabilities, dict) else {},
            client=client if isinstance(client, dict) else None,
            level=level or None,
            headers=headers,
        )
