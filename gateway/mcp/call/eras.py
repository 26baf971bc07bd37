"""Between the two generations of the protocol: turns requests and results of one into those of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.call.caller import ANSWER_S, Caller
from gateway.mcp.call.messages import META, META_LEVEL, Call, Question, envelope
from gateway.mcp.call.task_table import EXTENSION
from gateway.mcp.wire.errors import INTERNAL_ERROR, RpcError

MAX_ROUNDS: Final = 10
_STATE_ONLY_S: Final = 0.05
CARRIED: Final = ("inputResponses", "requestState")
_MODERN_RESULT: Final = ("resultType", "ttlMs", "cacheScope")
CACHEABLE: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover"}
)


def to_modern(params: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """A legacy client's request for a modern backend. State that we did not seal is dropped."""
    meta = params.get("_meta")
    full = {**(meta if isinstance(meta, dict) else {}), **envelope(_in_old_shape(caller.capabilities), caller.client)}
    if caller.level is not None:
        full[META_LEVEL] = caller.level
    return {**{key: value for key, value in params.items() if key not in CARRIED}, "_meta": full}


def _in_old_shape(capabilities: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the Tasks extension: a legacy client could not tell its tasks from a result."""
    extensions = capabilities.get("extensions")
    if not isinstance(extensions, Mapping) or EXTENSION not in extensions:
        return capabilities
    kept = {name: settings for name, settings in extensions.items() if name != EXTENSION}
    return {**capabilities, "extensions": kept}


def to_legacy(params: dict[str, Any]) -> dict[str, Any]:
    """A modern client's request for a legacy backend: without the envelope."""
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return params
    kept = {key: value for key, value in meta.items() if not key.startswith(META)}
    plain = {key: value for key, value in params.items() if key not in ("_meta", *CARRIED)}
    return {**plain, "_meta": kept} if kept else plain


def result_to_legacy(result: dict[str, Any]) -> dict[str, Any]:
    """A modern backend's result for a legacy client: without the members that only the new revision has."""
    plain = {key: value for key, value in result.items() if key not in _MODERN_RESULT}
    meta = plain.pop("_meta", None)
    if isinstance(meta, dict):
        meta = {key: value for key, value in meta.items() if not key.startswith(META)}
    return plain if not meta else {**plain, "_meta": meta}


def result_to_modern(result: dict[str, Any], method: str) -> dict[str, Any]:
    """A legacy backend's result for a modern client."""
    full = {"resultType": "complete", **result}
    if method in CACHEABLE:
        full.setdefault("ttlMs", 0)
        full.setdefault("cacheScope", "private")
    return full


def is_input_required(result: Mapping[str, Any]) -> bool:
    """Whether the backend needs input before it goes on."""
    return result.get("resultType") == "input_required"


def input_required(questions: Mapping[str, Question], state: str) -> dict[str, Any]:
    """A legacy backend's open questions as a modern result."""
    asked = {key: {"method": q.method, "params": dict(q.params)} for key, q in questions.items()}
    return {"resultType": "input_required", "inputRequests": asked, "requestState": state}


async def ask_client(call: Call, caller: Caller, result: Mapping[str, Any], round_number: int) -> dict[str, Any]:
    """Put a modern backend's questions to a legacy client; returns what the retry must carry. Raises RpcError."""
    requests = result.get("inputRequests")
    carried: dict[str, Any] = {}
    if isinstance(result.get("requestState"), str):
        carried["requestState"] = result["requestState"]
    if not isinstance(requests, dict) or not requests:
        await asyncio.sleep(_STATE_ONLY_S * min(2**round_number, 5))
        return carried
    futures: dict[str, asyncio.Future[dict[str, Any]]] = {}
    try:
        for key, request in requests.items():
            futures[key] = _ask(caller, request)
            call.asked.add(futures[key])
        async with asyncio.timeout(ANSWER_S):
            await caller.answer.until(lambda: all(future.done() for future in futures.values()))
        carried["inputResponses"] = {key: future.result() for key, future in futures.items()}
    except TimeoutError:
        raise RpcError(INTERNAL_ERROR, f"The client did not answer within {ANSWER_S:g} s") from None
    finally:
        for future in futures.values():
            if not future.cancel():
                future.exception()  # retrieved: only the first refusal is reported
    return carried


def _ask(caller: Caller, request: Any) -> asyncio.Future[dict[str, Any]]:
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise RpcError(INTERNAL_ERROR, "the server asked something that is no request")
    params = request.get("params")
    params = params if isinstance(params, dict) else {}
    if not caller.can(request["method"], params):
        raise RpcError(INTERNAL_ERROR, f"the server needs {request['method']}, which this client does not support")
    return caller.ask(request["method"], params)
