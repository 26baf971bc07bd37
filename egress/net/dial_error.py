"""Why a connection could not be made."""

from __future__ import annotations

from observability.events import Reason


class DialError(Exception):
    """Raised when a connection could not be made; carries the reason and a sentence."""

    def __init__(self, reason: Reason, detail: str, code: int = 0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.code = code
        """The errno, where there was one."""
