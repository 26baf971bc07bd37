"""How many values a JSON text holds, found without reading it: bytes alone do not say what it costs to read.

Four megabytes of text are read in milliseconds, four megabytes of numbers or of empty lists in seconds, and nothing else
runs meanwhile. So a text may have so many bytes and so many values.
"""

from __future__ import annotations

import re
from typing import Final

CLIENT_VALUES: Final = 50_000
"""Of one message of a client, which is read by a slower and stricter reader."""
BACKEND_VALUES: Final = 200_000
_STRING: Final = re.compile(rb'"[^"]*"')


def has_more_values(text: bytes, most: int) -> bool:
    """Whether it holds more than so many. What stands in strings does not count."""
    if len(text) <= most or _separators(text) <= most:
        return False
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * most:  # a key and a value are two strings at most
        return True
    return _separators(_STRING.sub(b"", bare)) > most


def _separators(text: bytes) -> int:
    """About one for each value: it stands behind a comma, a colon or a bracket."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
