"""JSON in, JSON out: strict reading of request bodies, and one shape for every error."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

MAX_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem with the request or with the file."""

    message: str
    path: str = ""
    """Where: `network.allowed_hosts.0`, a field of the request, …"""
    line: int | None = None
    hint: str = ""


class ApiError(Exception):
    """Raised when a request cannot be done; becomes `{"error": {code, message, problems}}`."""

    def __init__(self, status: int, code: str, message: str, problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.problems = tuple(problems)


def error_body(code: str, message: str, problems: Iterable[Problem] = ()) -> dict[str, Any]:
    """The body of every error answer."""
    rows = [{k: v for k, v in dataclasses.asdict(p).items() if v not in ("", None)} for p in problems]
    return {"error": {"code": code, "message": message, "problems": rows}}


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer for an ApiError."""
    return JSONResponse(error_body(error.code, str(error), error.problems), error.status, headers)


def bad(message: str, field: str = "", code: str = "bad_request") -> ApiError:
    """A 400 about one field of the request."""
    return ApiError(400, code, message, [Problem(message=message, path=field)] if field else ())


async def read_object(request: Request, known: Iterable[str]) -> dict[str, Any]:
    """The JSON object in the body; no body is an empty object.

    Raises ApiError: 413 above `MAX_BODY`, 415 for another content type, 400 for anything but an object with the
    known fields.
    """
    raw = await _read_bounded(request)
    if not raw:
        return {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "unsupported_media_type", "Send the body as JSON, with Content-Type: application/json.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise bad(f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad("The body must be a JSON object.")
    for key in body.keys() - set(known):
        raise bad(f"Unknown field `{key}`. Known here: {', '.join(sorted(known)) or 'none'}.", str(key))
    return body


async def _read_bounded(request: Request) -> bytes:
    parts = bytearray()
    async for chunk in request.stream():
        parts += chunk
        if len(parts) > MAX_BODY:
            raise ApiError(413, "too_large", f"The body is larger than {MAX_BODY} bytes.")
    return bytes(parts)


def text(body: Mapping[str, Any], field: str, default: str | None = None) -> str:
    """A field that must be a non-empty string (or absent, where there is a default)."""
    value = body.get(field, default)
    if not isinstance(value, str) or (not value and default is None):
        raise bad(f"`{field}` must be a non-empty string.", field)
    return value


def flag(body: Mapping[str, Any], field: str) -> bool:
    """A field that must be true or false; absent is false."""
    value = body.get(field, False)
    if not isinstance(value, bool):
        raise bad(f"`{field}` must be true or false.", field)
    return value


def mapping(body: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A field that must be an object."""
    value = body.get(field)
    if not isinstance(value, dict):
        raise bad(f"`{field}` must be an object.", field)
    return value


def port_of(body: Mapping[str, Any], field: str = "port") -> int | None:
    """A TCP port, or None when the field is absent or null."""
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise bad(f"`{field}` must be a port number from 1 to 65535.", field)
    return value


def count(request: Request, name: str, default: int, most: int) -> int:
    """A query parameter that must be a whole number from 0 to `most`."""
    raw = request.query_params.get(name)
    if raw is None:
        return default
    if not raw.isascii() or not raw.isdigit() or len(raw) > 18 or int(raw) > most:
        raise bad(f"`{name}` must be a whole number from 0 to {most}.", name)
    return int(raw)


def switch(request: Request, name: str) -> bool:
    """A query parameter that is on when it is `1`, `true` or empty."""
    raw = request.query_params.get(name)
    return raw is not None and raw.lower() in {"", "1", "true", "yes"}
