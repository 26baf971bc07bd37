"""The known key that a mistyped one is nearest to, for "Did you mean …?"; words: `egress.policy.nearest`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_key(given: str, known: Iterable[str]) -> str | None:
    """The nearest key: `allowed-hosts` and `allowedHosts` are near `allowed_hosts`; what is merely similar is not."""
    simple = {name.lower().replace("_", ""): name for name in known}
    written = given.lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(written, list(simple), n=1, cutoff=0.7)
    return simple[close[0]] if close else None
