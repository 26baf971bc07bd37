"""How many values a JSON text holds, found without parsing it: its size alone does not show what parsing costs.

Four megabytes of text are parsed in milliseconds, four megabytes of numbers or of empty lists in seconds, and nothing else
runs meanwhile. So both the bytes and the values of a text are limited.
"""

from __future__ import annotations

import re
from typing import Final

CLIENT_VALUES: Final = 50_000
"""Values in one message of a client, which a slower and stricter parser reads."""
BACKEND_VALUES: Final = 200_000
_STRING: Final = re.compile(rb'"[^"]*"')


def has_more_values(text: bytes, most: int) -> bool:
    """Whether the text holds more than `most` values. The contents of strings do not count."""
    if len(text) <= most or _separators(text) <= most:
        return False
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * most:  # a key and a value are two strings at most
        return True
    return _separators(_STRING.sub(b"", bare)) > most


def _separators(text: bytes) -> int:
    """About one for each value, which follows a comma, a colon or a bracket."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
