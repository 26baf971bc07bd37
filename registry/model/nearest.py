"""The known name that a mistyped one is nearest to, for "Did you mean …?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name most like `given`; None where none is like it."""
    return next(iter(difflib.get_close_matches(given, list(known), n=1)), None)


def nearest_key(given: str, known: Iterable[str]) -> str | None:
    """The same for keys: `allowed-hosts` and `allowedHosts` are near `allowed_hosts`; what is merely similar is not."""
    simple = {name.lower().replace("_", ""): name for name in known}
    written = given.lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(written, list(simple), n=1, cutoff=0.7)
    return simple[close[0]] if close else None
