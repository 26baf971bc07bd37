"""Header fields that end with a connection."""

from __future__ import annotations

from typing import Final

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Never passed on (RFC 9110 7.6.1); what Connection names ends here too."""
REWRITTEN: Final = frozenset({b"host", b"content-length"})
"""Of a request: written again from what was parsed."""
