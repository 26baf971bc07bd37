"""Which call an answer was for that cannot be read as one.

A call ends at once with the reason instead of waiting for its timeout. Servers also print for people what they send, so only
a line that begins like an answer and names JSON-RPC and no method counts as one, and only the id of a call that waits. None
of this runs while messages can be read.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_ID_FIRST: Final = re.compile(rb'\{"jsonrpc":\s?"2\.0",\s?"id":\s?(\d{1,18}),')
_ID_LAST: Final = re.compile(rb'"id":\s?(\d{1,18})\}\s*$')
_REQUEST: Final = re.compile(rb'\{(?:"jsonrpc":\s?"2\.0",\s?)?(?:"id":\s?[^,]{1,80},\s?)?"method":')
"""How a request or a notification of the backend's own begins: it answers no call, whatever its id is."""
_ID: Final = re.compile(rb'"id"\s*:\s*"?(\d{1,18})\b')
_JSONRPC: Final = re.compile(rb'"jsonrpc"\s*:')
_METHOD: Final = re.compile(rb'"method"\s*:')
_ARRAY: Final = re.compile(rb"\s*\[\s*\{")
_BEGINNING: Final = re.compile(rb"(?:\xef\xbb\xbf)?\{[^\n]{0,1000}(?<=[{,\[])[ \t\r]*")
_EDGE: Final = 4 * 1024
"""Bytes at each end of a line that are looked at."""


def is_array(line: bytes) -> bool:
    """Whether it is an array of objects that may be messages."""
    return _ARRAY.match(line) is not None and _JSONRPC.search(line, 0, _EDGE) is not None


def is_beginning(line: bytes) -> bool:
    """Whether a line that is no JSON may be the first of a message that has several."""
    return b"\n" not in line and _BEGINNING.fullmatch(line) is not None


def call_number(line: bytes, waiting: Collection[int]) -> int | None:
    """The waiting call that a line was to answer; None where it does not show."""
    edges = line if len(line) <= 2 * _EDGE else line[:_EDGE] + b" " + line[-_EDGE:]
    if _JSONRPC.search(edges) is None or _METHOD.search(edges) is not None:
        return None
    return next((number for found in _ID.finditer(edges) if (number := int(found[1])) in waiting), None)


def number_of(head: bytes, tail: bytes, waiting: Collection[int]) -> int | None:
    """The waiting call that a line answers of which only the ends are there; the only one, where they do not show it."""
    if _REQUEST.match(head):
        return None
    found = _ID_FIRST.match(head) or _ID_LAST.search(tail)
    if found is not None:
        return number if (number := int(found[1])) in waiting else None
    return next(iter(waiting)) if len(waiting) == 1 else None
