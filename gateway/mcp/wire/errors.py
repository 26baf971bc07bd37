"""JSON-RPC errors: the codes we use, and the one exception that carries them to the client."""

from __future__ import annotations

from typing import Any, Final

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
BACKEND_UNAVAILABLE: Final = -32000
"""The backend is not running, died, or sent an invalid answer. `data.backend` names it."""
REQUEST_TIMEOUT: Final = -32001
RESOURCE_NOT_FOUND: Final = -32002
"""Up to 2025-11-25; in 2026-07-28 it is -32602."""
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
REQUEST_CANCELLED: Final = -32800

STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""HTTP status of an error on the 2026-07-28 wire; every other code is 200 (the SDK's `ERROR_CODE_HTTP_STATUS`)."""


class RpcError(Exception):
    """Raised when a request is to be answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None, *, kind: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.kind = kind or str(code)
        """The word for `error.type`: our own where we have one, else the code."""
        self.reason = reason or message
        """The message without the name of its backend, for a text that names it already."""

    def body(self) -> dict[str, Any]:
        """The `error` member."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


def clipped(text: str, most: int) -> str:
    """The text, or its beginning and its length: a backend may send text of any length."""
    return text if len(text) <= most else f"{text[:most]}… (cut; it has {len(text)} characters)"


class PeerClosed(Exception):
    """Raised when a backend's connection ended, could not be made, or broke the protocol."""


class ConnectFailed(PeerClosed):
    """Raised when nothing was sent yet, so the request may be tried again on a new connection."""


UNAVAILABLE: Final = "backend_unavailable"
MAX_REASON: Final = 2000
"""Characters of a backend's text in an error of ours, in a log line and in notices."""


def unavailable(backend: str, why: str) -> RpcError:
    """The error for a backend that cannot answer: it says which and why."""
    why = clipped(why, MAX_REASON)
    return RpcError(
        BACKEND_UNAVAILABLE, f"Server {backend}: {why}", {"backend": backend}, kind=UNAVAILABLE, reason=why
    )


def session_ended(backend: str, why: str) -> RpcError:
    """The error for the first call after the process that held the caller's state had to end."""
    text = f"Server {backend}: session ended: {why}. What it had kept is lost; call again to start a new one"
    return RpcError(BACKEND_UNAVAILABLE, text, {"backend": backend}, kind="session_ended")
