"""Reads a message of a backend, so that all that is passed on of it is sound.

Strict JSON: with `NaN` or `Infinity` it is no message. Bytes that are no UTF-8 become U+FFFD, as in the SDKs, and so does
half a surrogate pair, sent by servers that cut a text in the middle of an emoji: many clients cannot parse it. Members of
`_meta` (and of an error's data) that begin with `stockade/` are this gateway's own words, so they are dropped.

All of that costs a few searches through the bytes, unless one of them finds something.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from pydantic_core import from_json

from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INTERNAL_ERROR

OURS: Final = "stockade/"
_NEEDLESS: Final = (b"\\u006", b"\\u007", b"\\u002f", b"\\u002F")
"""How needless escapes of a small letter or the slash begin: our name could be spelled with them."""
_BLANKS: Final = 16
"""Blanks that a message may begin with to be salvaged."""
_MAX_MENDED: Final = 1024 * 1024
"""Bytes of a message in which half a surrogate pair is replaced; a larger one with such a half is refused."""
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""Any escape; the group is half a surrogate pair."""


def read(text: bytes) -> tuple[Any, bytes]:
    """The message, and the bytes in which its result may be passed on; empty when it must be encoded again.

    Raises ValueError for what is not JSON.
    """
    if b"\\ud" in text or b"\\uD" in text:
        text = _whole_pairs(text)
    try:
        message = codec.loads(text)
    except UnicodeDecodeError:
        text = text.decode("utf-8", "replace").encode()
        message = codec.loads(text)
    if isinstance(message, dict) and isinstance(error := message.get("error"), dict):
        message["error"] = _error(error)
    if b"stockade" in text or (b"\\u00" in text and any(escape in text for escape in _NEEDLESS)):
        _forget_ours(message)
        return message, b""
    return message, text


def as_number(said: Any) -> int | None:
    """The id of a request of ours, also as text or with a fraction of zero: some servers keep ids so. None for any other."""
    if type(said) is int:
        return said
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 19:
        return int(said)
    return int(said) if type(said) is float and said.is_integer() else None


def salvaged(text: bytes) -> dict[str, Any] | None:
    """A response that is JSON except for a number or some text in it. Its bytes must not be passed on."""
    if b"{" not in text[:_BLANKS]:
        return None
    try:
        message = json.loads(_whole_pairs(text).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or "method" in message or not isinstance(message.get("result"), dict):
        return None
    _forget_ours(message)
    return message


def _whole_pairs(text: bytes) -> bytes:
    try:
        from_json(text, allow_inf_nan=False)  # this parser takes no half of a pair
    except ValueError:
        if len(text) > _MAX_MENDED:
            raise ValueError("half a surrogate pair in a large message") from None
        return _ESCAPE.sub(_mended, text)
    return text


def _mended(escape: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if escape[1] else escape[0]


def _error(error: dict[str, Any]) -> dict[str, Any]:
    """An error that every client can parse, without our own words in its data."""
    code, message, data = error.get("code"), error.get("message"), error.get("data")
    if type(code) is not int:
        error["code"] = INTERNAL_ERROR
    if not isinstance(message, str):
        error["message"] = "the server gave no reason" if message is None else codec.dumps(message).decode()
    if isinstance(data, dict):
        error["data"] = without_ours(data)
    return error


def without_ours(meta: dict[str, Any]) -> dict[str, Any]:
    """The members that are not this gateway's own words."""
    return {key: value for key, value in meta.items() if not key.startswith(OURS)}


def _forget_ours(message: Any) -> None:
    """Drop our own words from every `_meta` in the message."""
    todo = [message]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if isinstance(meta := value.get("_meta"), dict):
                value["_meta"] = without_ours(meta)
            todo += value.values()
        elif isinstance(value, list):
            todo += value
