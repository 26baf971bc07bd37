"""The known word that a mistyped one is nearest to, for "Did you mean …?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known word most like `given`; None where none is like it."""
    return next(iter(difflib.get_close_matches(given, list(known), n=1)), None)
