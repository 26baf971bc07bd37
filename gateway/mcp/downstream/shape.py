"""The shape of a client's JSON-RPC messages. What is optional and null counts as absent: many programs write it so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.call.messages import META
from gateway.mcp.downstream.http import Refused, refusing
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import PARSE_ERROR
from gateway.mcp.wire.json_cost import CLIENT_VALUES, has_more_values
from observability.labels import METHODS

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_MAX_WORD: Final = 512
"""Characters of a method or an id, which stand in events and logs."""
_LEVELS: Final = 6
_DEFINED: Final = frozenset({"capabilities", "clientInfo", "ref", "argument", "context"})
"""Parameters that the protocol defines with all that is in them: nothing in them is a caller's own value."""


def parse(body: bytes) -> Any:
    """The JSON value of a body. Raises Refused (400; 413 for one that costs too much to read)."""
    if has_more_values(body, CLIENT_VALUES):
        raise Refused(413, f"The request holds more than {CLIENT_VALUES} values; send large data as text")
    try:
        return codec.parse(body)
    except ValueError as error:
        raise Refused(400, f"Parse error: {error}", PARSE_ERROR) from None


def parse_message(body: bytes) -> dict[str, Any]:
    """The one JSON-RPC message of a body. Raises Refused (400, 413)."""
    return sound(parse(body))


def sound(value: Any) -> dict[str, Any]:
    """One JSON-RPC message, without what is null in it. Raises Refused (400), with the message's id if it has one."""
    if not isinstance(value, dict):
        raise Refused(400, "Body must be a single JSON-RPC message")
    with refusing(value if _is_id(value.get("id")) else {}):
        message = {key: one for key, one in value.items() if one is not None or key in ("id", "result")}
        if message.get("result", ...) is None and "error" in message:
            del message["result"]
        _check(message)
    return _without_nulls(message)


def _check(message: Mapping[str, Any]) -> None:
    if message.get("jsonrpc") != "2.0":
        raise Refused(400, "Body must be a single JSON-RPC message")
    if "method" in message:
        if not isinstance(message["method"], str) or not isinstance(message.get("params", {}), dict):
            raise Refused(400, "Body must be a single JSON-RPC request or notification object")
        if not _is_word(message["method"]):
            raise Refused(400, f"The method is longer than {_MAX_WORD} characters, or no Unicode text")
        if "id" in message and type(message["id"]) not in (int, str):
            raise Refused(400, "A request's id must be a string or a whole number")
        if not _is_word(str(message.get("id", ""))):
            raise Refused(400, f"A request's id is longer than {_MAX_WORD} characters, or no Unicode text")
    elif "id" not in message or not ("result" in message) ^ ("error" in message):
        raise Refused(400, "Body must be a single JSON-RPC message")


def _is_id(value: Any) -> bool:
    return type(value) in (int, str) and _is_word(str(value))


def _is_word(text: str) -> bool:
    """Whether events and logs can take the text: short, and without lone surrogates."""
    return len(text) <= _MAX_WORD and not _SURROGATE.search(text)


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """The message without optional members that are null. Values that a tool is called with are the caller's own, and
    so is everything in a method that is not the protocol's."""
    if "method" not in message:
        return (
            {**message, "result": _shallow(message["result"])} if isinstance(message.get("result"), dict) else message
        )
    params = message.get("params")
    if params is None or message["method"] not in METHODS or not _has_null(params):
        return message
    found = {
        key: _deep(one) if key in _DEFINED else _meta(one) if key == "_meta" else one
        for key, one in params.items()
        if one is not None
    }
    return {**message, "params": found}


def _has_null(params: Mapping[str, Any]) -> bool:
    """Whether it may have one: most requests have none, and pass as they are."""
    return any(
        one is None or (isinstance(one, dict) and (key in _DEFINED or key == "_meta")) for key, one in params.items()
    )


def _meta(value: Any) -> Any:
    """`_meta` without nulls in what the protocol defines; other keys are the caller's."""
    if not isinstance(value, dict):
        return value
    return {
        key: _deep(one) if key.startswith(META) else one
        for key, one in value.items()
        if one is not None or not (key.startswith(META) or key == "progressToken")
    }


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in value.items() if one is not None}


def _deep(value: Any, levels: int = _LEVELS) -> Any:
    """The value without members that are null, down to the levels that the protocol has."""
    if isinstance(value, dict) and levels:
        return {key: _deep(one, levels - 1) for key, one in value.items() if one is not None}
    return value
