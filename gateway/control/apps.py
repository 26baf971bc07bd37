"""The two faces of the API: the control app (UNIX socket, no token), the admin app (TCP, guarded, with the page)."""

from __future__ import annotations

import logging
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from egress.policy.decide import PolicyError
from gateway.control.auth import SESSION_S, AdminToken, Brake, Sessions
from gateway.control.base import Control
from gateway.control.guard import CSRF_HEADER, AdminGate, Guard, check_token, is_https, peer_of, refusal
from gateway.control.routes import api_routes
from gateway.control.wire import ApiError, Problem, error_response, read_object, text
from gateway.hosts import listening_name
from gateway.runtime.sandbox.errors import EngineError
from registry.edit import ConcurrentChange
from registry.model.errors import ConfigError

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent.parent / "web/static"


def control_app(control: Control) -> Starlette:
    """The API for the control socket: a process that may open the socket may do everything."""
    return _app([*health_routes(control), *api_routes(control)])


def admin_app(control: Control, token: AdminToken, *, port: int, static: Path = STATIC) -> ASGIApp:
    """The API, the page, the health checks and /metrics for the admin listener, behind the guard."""
    gate = AdminGate(
        token=token,
        sessions=Sessions(token),
        brake=Brake(),
        cookie=f"stockade_admin_{port}",
        allowed_hosts=lambda: {*control.config.gateway.allowed_hosts, listening_name(control.config.gateway.admin)},
        allowed_origins=lambda: control.config.gateway.allowed_origins,
    )
    page = [
        Route("/", _Page(static).index),
        Route("/favicon.ico", _Page(static).icon),
        Mount("/assets", StaticFiles(directory=static, check_dir=False)),
    ]
    return Guard(_app([*health_routes(control), *sign_in_routes(gate), *api_routes(control), *page]), gate)


def _app(routes: list[BaseRoute]) -> Starlette:
    handlers = {
        ApiError: on_api_error,
        ConfigError: on_config_error,
        PolicyError: on_policy_error,
        EngineError: on_engine_error,
        HTTPException: on_http_error,
        Exception: on_crash,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


def health_routes(control: Control) -> list[BaseRoute]:
    """/healthz (the process answers), /readyz (clients can use it) and /metrics."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": control.version})

    async def readyz(_: Request) -> Response:
        state = control.readiness()
        return JSONResponse(
            {"ready": state.ready, "state": state.state, "detail": state.detail}, 200 if state.ready else 503
        )

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(control.instruments.expose(), media_type="text/plain; version=0.0.4")

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def sign_in_routes(gate: AdminGate) -> list[BaseRoute]:
    """POST makes a session from the admin token, DELETE ends it; /login and /logout are the same."""

    async def sign_in(request: Request) -> Response:
        body = await read_object(request, ["token"])
        check_token(text(body, "token"), peer_of(request), gate)
        response = JSONResponse({"signed_in": True, "expires_s": SESSION_S})
        response.set_cookie(
            gate.cookie,
            gate.sessions.open(),
            max_age=int(SESSION_S),
            path="/",
            httponly=True,
            samesite="strict",
            secure=is_https(request, gate.allowed_hosts()),
        )
        return response

    async def sign_out(request: Request) -> Response:
        if not request.headers.get(CSRF_HEADER):
            raise ApiError(403, "csrf", "A change needs the header X-Stockade-CSRF.")
        gate.sessions.close(request.cookies.get(gate.cookie, ""))
        response = JSONResponse({"signed_in": False})
        secure = is_https(request, gate.allowed_hosts())
        response.delete_cookie(gate.cookie, path="/", httponly=True, samesite="strict", secure=secure)
        return response

    return [
        Route("/login", sign_in, methods=["POST"]),
        Route("/logout", sign_out, methods=["POST"]),
        Route("/api/v1/session", sign_in, methods=["POST"]),
        Route("/api/v1/session", sign_out, methods=["DELETE"]),
    ]


class _Page:
    """The one page, and its icon."""

    def __init__(self, static: Path) -> None:
        self._static = static

    async def index(self, _: Request) -> Response:
        return self._file("index.html")

    async def icon(self, _: Request) -> Response:
        return self._file("favicon.svg")

    def _file(self, name: str) -> Response:
        path = self._static / name
        if not path.is_file():
            raise ApiError(404, "not_found", f"This installation has no {name}.")
        return FileResponse(path)


async def on_api_error(_: Request, error: Exception) -> Response:
    """Our own refusals; the guard's (401, 429) keep their headers wherever they are raised."""
    assert isinstance(error, ApiError)
    return refusal(error) if error.status in {401, 429} else error_response(error)


async def on_config_error(_: Request, error: Exception) -> Response:
    """A change or a file that the configuration's rules refuse: all problems, with their lines."""
    assert isinstance(error, ConfigError)
    problems = [Problem(message=p.message, path=p.key_path, line=p.line or None, hint=p.hint) for p in error.problems]
    if isinstance(error, ConcurrentChange):
        return error_response(ApiError(409, "changed_meanwhile", str(error), problems))
    return error_response(ApiError(422, "config_invalid", str(error), problems))


async def on_policy_error(_: Request, error: Exception) -> Response:
    """An invalid network block: all its problems."""
    assert isinstance(error, PolicyError)
    problems = [Problem(message=p.message, path=".".join(map(str, p.path))) for p in error.problems]
    return error_response(ApiError(422, "policy_invalid", str(error), problems))


async def on_engine_error(_: Request, error: Exception) -> Response:
    """The container engine refused or does not answer."""
    return error_response(ApiError(502, "engine_failed", str(error)))


async def on_http_error(_: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as all other errors."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    said = {404: "There is nothing at this path.", 405: "This path does not take that method."}
    body = ApiError(error.status_code, code, said.get(error.status_code, error.detail))
    return error_response(body, error.headers)


async def on_crash(request: Request, error: Exception) -> Response:
    """A fault of ours; Starlette raises it again after the answer, so that the server logs it."""
    logger.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
    return error_response(ApiError(500, "internal", "The gateway failed on this request; see its log."))
