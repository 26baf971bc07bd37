"""JSON in and out, without loss.

Theory of operation. What a client sends is parsed once by `parse`, strictly: UTF-8, no duplicate keys (two
readers could take different ones), no NaN. What is forwarded is `dumps` of what was parsed, so the filters and
the backend see the same thing. Numbers keep their spelling: Python's integers have no limit that matters, and a
fraction whose `repr` differs from its text is kept as `Spelled`.

What a backend sends is parsed by `loads` to check and route it (`incoming`), but a result passes as the bytes it came
in where only the id changes: `result_text` cuts them out.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from typing import Any, Final

MAX_DEPTH_ERROR: Final = "nested too deep"


class Spelled:
    """A number whose spelling Python's float would change (`1.10`, `1e400`)."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _number(text: str) -> float | Spelled:
    value = float(text)
    return value if repr(value) == text else Spelled(text)


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_number, parse_constant=_constant)
_MARK: Final = "\0" + secrets.token_hex(12) + ":"
_MARKED: Final = re.compile('"' + json.dumps(_MARK)[1:-1].replace("\\", "\\\\") + '([-+0-9.eE]+)"')
_MARK_ESCAPED: Final = json.dumps(_MARK)[1:-1]


def _default(value: object) -> str:
    if isinstance(value, Spelled):
        return _MARK + value.text
    raise TypeError(f"{type(value).__name__} is not JSON")


def _spelled(value: Any) -> Any:
    """The value with each infinity as a number that JSON has and that is read as one again."""
    match value:
        case dict():
            return {key: _spelled(one) for key, one in value.items()}
        case list() | tuple():
            return [_spelled(one) for one in value]
        case float() if math.isinf(value):
            return Spelled("1e999" if value > 0 else "-1e999")
        case _:
            return value


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_default, allow_nan=False)
_ASCII: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=_default, allow_nan=False)
_LOADER: Final = json.JSONDecoder(parse_constant=_constant)
_BOM: Final = b"\xef\xbb\xbf"


def parse(body: bytes) -> Any:
    """The JSON value in `body`. Raises ValueError for anything that two readers could read differently."""
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except RecursionError:
        raise ValueError(MAX_DEPTH_ERROR) from None


def loads(text: bytes) -> Any:
    """The JSON value a backend sent. Raises ValueError."""
    try:
        return _LOADER.decode(text.decode("utf-8-sig" if text.startswith(_BOM) else "utf-8"))
    except RecursionError:
        raise ValueError(MAX_DEPTH_ERROR) from None


def dumps(value: Any) -> bytes:
    """Compact JSON on one line."""
    try:
        text = _ENCODER.encode(value)
    except ValueError:  # a number that is too big for a float, as a backend spelled it: 1e999
        text = _ENCODER.encode(value := _spelled(value))
    if _MARK_ESCAPED in text:
        text = _MARKED.sub(r"\1", text)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, legal in JSON only as an escape
        text = _ASCII.encode(value)
        return (_MARKED.sub(r"\1", text) if _MARK_ESCAPED in text else text).encode()


_LINE_ENDS: Final = re.compile(rb"\xe2\x80[\xa8\xa9]|\xc2\x85")
_ESCAPED: Final = {b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029", b"\xc2\x85": b"\\u0085"}


def one_line(message: bytes) -> bytes:
    """JSON without the characters that some readers take for the end of a line, though JSON and SSE do not: U+2028, U+2029
    and U+0085 as escapes."""
    if not message.isascii() and (b"\xe2\x80" in message or b"\xc2\x85" in message):
        return _LINE_ENDS.sub(lambda found: _ESCAPED[found[0]], message)
    return message


_RESULT_FIRST: Final = b'{"result":'
_BLANKS: Final = b" \t\r\n"
_NEIGHBOUR: Final = re.compile(rb'\}\s*,\s*"(?:id"|[^"]*\\)')
"""Where a value may have ended and an `id`, in any spelling, may follow it."""


def result_text(line: bytes, number: int) -> bytes | None:
    """The bytes of `result` in the response to request `number`, or None where the spelling is not a known one.

    `line` is valid JSON with the members jsonrpc, id and result, perhaps more than once. The two shapes are those of
    the Python and the TypeScript SDK; any other is read and written again by the caller, and so is what may carry a
    second id along, which would answer another request of the client's.
    """
    line = line.rstrip(_BLANKS)
    head = b'{"jsonrpc":"2.0","id":%d,"result":' % number
    if line.startswith(head):
        body = line[len(head) : -1]
    else:
        tail = b',"jsonrpc":"2.0","id":%d}' % number
        if not (line.startswith(_RESULT_FIRST) and line.endswith(tail)):
            return None
        body = line[len(_RESULT_FIRST) : -len(tail)]
    if b"\n" in body or b"\r" in body or not body.startswith(b"{") or _NEIGHBOUR.search(body):
        return None
    return body


def response(request_id: Any, result: bytes) -> bytes:
    """The response message with `result` as it is."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id_text(request_id), result)


def id_text(request_id: Any) -> bytes:
    """A JSON-RPC id as JSON."""
    if type(request_id) is int:
        return b"%d" % request_id
    return dumps(request_id)


def error_response(request_id: Any, error: dict[str, Any]) -> bytes:
    """The error message."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id_text(request_id), dumps(error))
