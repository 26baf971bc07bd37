"""What legacy and modern clients have in common on HTTP: one message in, one outcome out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gateway.mcp.call.answer import ClientGone, Form, Receive
from gateway.mcp.call.caller import Caller
from gateway.mcp.call.outcome import Outcome, encode, http_status, refused
from gateway.mcp.downstream.http import Refused, accepted, check_content_type, read_body
from gateway.mcp.downstream.shape import parse
from gateway.mcp.route.route import Router
from gateway.mcp.view.views import View
from gateway.mcp.wire.errors import INTERNAL_ERROR, RpcError

logger = logging.getLogger(__name__)

Look = Callable[[], View]
"""The client's view at this moment: reading a body may take long. Raises Refused and Denied."""


async def read_message(headers: dict[str, str], receive: Receive, limit: int) -> tuple[Any, Form]:
    """The JSON value of a POST, and the form of its answer. Raises Refused, and EOFError when the client went away."""
    check_content_type(headers)
    form = accepted(headers)
    if form is None:
        raise Refused(406, "Not Acceptable: Client must accept application/json or text/event-stream")
    return parse(await read_body(receive, headers, limit)), form


async def answer(router: Router, caller: Caller, method: str, params: dict[str, Any]) -> None:
    """Serve one request to its end; this is where an outcome becomes bytes."""
    try:
        outcome = await found(router, caller, method, params)
    except ClientGone:
        return
    await caller.answer.finish(encode(caller.request_id, outcome), http_status(outcome, modern=caller.modern))


async def found(router: Router, caller: Caller, method: str, params: dict[str, Any]) -> Outcome:
    """The outcome of one request. Raises ClientGone."""
    try:
        return await router.handle(caller, method, params)
    except ClientGone:
        raise
    except Exception:
        logger.exception("a request failed: %s", method)
        return refused(RpcError(INTERNAL_ERROR, "Internal error"))
    finally:
        caller.answer.stop_watching()
