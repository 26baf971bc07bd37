"""How a call ends: with a result, or with an error of a known kind and origin.

Decisions look at the type of an outcome, at its kind and at who made it. The words of an error are for people: a backend
chooses its own, so no decision reads them. An outcome becomes bytes at the edge only (`encode`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import BACKEND_UNAVAILABLE, INTERNAL_ERROR, MAX_REASON, STATUS, RpcError, clipped


class Origin(Enum):
    """Who made an error."""

    BACKEND = "backend"
    """The backend sent it as its answer to the call: the call may have run."""
    TRANSPORT = "transport"
    """The connection to the backend, from a status, an end or bytes that are no answer."""
    GATEWAY = "gateway"
    """This gateway: it refused the call or gave up waiting."""


class ErrorKind(Enum):
    """What went wrong."""

    ANSWERED = "answered"
    """The backend answered with an error of its own."""
    UNAVAILABLE = "unavailable"
    """The connection ended, or brought no valid answer. The call may have run."""
    SESSION_GONE = "session_gone"
    """The backend refused the request because it does not know the session. The call did not run."""
    UNAUTHORIZED = "unauthorized"
    """The backend refused our credentials. The call did not run."""
    HTTP_STATUS = "http_status"
    """The backend answered with an HTTP error status and no message."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    """The gateway refused the request."""


_NOT_RUN: Final = frozenset({ErrorKind.SESSION_GONE, ErrorKind.UNAUTHORIZED})


class Result:
    """A result, with the bytes it came in where the backend's spelling can be passed on."""

    __slots__ = ("_line", "_number", "value")

    def __init__(self, value: dict[str, Any], line: bytes = b"", number: int = 0) -> None:
        """`line` is the whole message it came in, `number` the id of the request in it."""
        self.value = value
        self._line = line
        self._number = number

    def text(self) -> bytes:
        """The result as JSON, as the backend spelled it where that is possible."""
        raw = codec.result_text(self._line, self._number) if self._line else None
        return raw if raw is not None else codec.dumps(self.value)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error."""

    error: dict[str, Any]
    """The `error` member of the response."""
    kind: ErrorKind
    origin: Origin
    word: str = ""
    """The gateway's own word for `error.type`; empty: the code is the word."""
    reason: str = ""
    """The message without the backend's name, where the gateway made it."""

    @property
    def label(self) -> str:
        """The value of `error.type` in metrics and spans: never text that a backend chose."""
        code = self.error.get("code")
        return self.word or (str(code) if type(code) is int else "error")

    @property
    def not_run(self) -> bool:
        """Whether the backend certainly did not run the call, so that it may be sent again."""
        return self.origin is Origin.TRANSPORT and self.kind in _NOT_RUN


Outcome: TypeAlias = Result | Failure


class CallFailed(RpcError):
    """Raised for the failure of a call of our own; decisions look at `failure`, since a backend chooses code and words."""

    def __init__(self, failure: Failure) -> None:
        code, data = failure.error.get("code"), failure.error.get("data")
        super().__init__(
            code if type(code) is int else INTERNAL_ERROR,
            clipped(str(failure.error.get("message")), MAX_REASON),
            data if len(repr(data)) <= MAX_REASON else None,
            reason=clipped(failure.reason, MAX_REASON),
        )
        self.failure = failure


def answered(message: dict[str, Any], line: bytes = b"", number: int = 0) -> Outcome:
    """The outcome that a backend's response carries; it has a `result` or an `error` object."""
    error = message.get("error")
    if isinstance(error, dict):
        return Failure(error, ErrorKind.ANSWERED, Origin.BACKEND)
    return Result(message["result"], line, number)


def broken(backend: str, why: str, kind: ErrorKind = ErrorKind.UNAVAILABLE) -> Failure:
    """The failure of a call whose connection brought no answer."""
    error = {"code": BACKEND_UNAVAILABLE, "message": f"Server {backend}: {why}", "data": {"backend": backend}}
    return Failure(error, kind, Origin.TRANSPORT, reason=why)


def refused(error: RpcError, kind: ErrorKind = ErrorKind.REFUSED) -> Failure:
    """The failure that an error of the gateway's own becomes."""
    return Failure(error.body(), kind, Origin.GATEWAY, error.kind, error.reason)


def error_type(outcome: Outcome) -> str:
    """The `error.type` of an outcome: empty for success, `tool_error` for a result that says so."""
    if isinstance(outcome, Result):
        return "tool_error" if outcome.value.get("isError") is True else ""
    return outcome.label


def encode(request_id: Any, outcome: Outcome) -> bytes:
    """The JSON-RPC response."""
    if isinstance(outcome, Result):
        return codec.response(request_id, outcome.text())
    return codec.error_response(request_id, outcome.error)


def http_status(outcome: Outcome, *, modern: bool) -> int:
    """The HTTP status of the response; up to 2025-11-25 an error is a 200 too."""
    if isinstance(outcome, Result) or not modern:
        return 200
    code = outcome.error.get("code")
    return STATUS.get(code, 200) if type(code) is int else 200
