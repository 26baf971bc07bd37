"""The table of /api/v1, and the endpoints about the gateway itself."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from gateway.control.backends import BackendRoutes
from gateway.control.base import Control
from gateway.control.catalog import catalog_routes
from gateway.control.clients import ClientRoutes
from gateway.control.egress import EgressRoutes
from gateway.control.streams import Streams
from gateway.control.wire import read_object
from registry.model.errors import render_path


def api_routes(control: Control) -> list[BaseRoute]:
    """Everything below /api/v1."""
    streams = Streams(control)
    routes = [
        *OwnRoutes(control).routes(),
        Route("/events", streams.events),
        *BackendRoutes(control, streams).routes(),
        *EgressRoutes(control).routes(),
        *ClientRoutes(control).routes(),
        *catalog_routes(control),
    ]
    return [Mount("/api/v1", routes=routes)]


class OwnRoutes:
    """The gateway itself."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> Iterable[BaseRoute]:
        return [
            Route("/status", self.status),
            Route("/config", self.config),
            Route("/reload", self.reload, methods=["POST"]),
            Route("/shutdown", self.shutdown, methods=["POST"]),
        ]

    async def status(self, _: Request) -> Response:
        """Which gateway this is, since when it runs, whether it is ready, and the trust overrides in force."""
        control = self._control
        state = control.readiness()
        return JSONResponse(
            {
                "version": control.version,
                "project": control.project,
                "config_path": str(control.config_path),
                "started": control.started,
                "urls": {"endpoint": control.urls.endpoint, "admin": control.urls.admin},
                "ready": state.ready,
                "detail": state.detail,
                "warnings": [*control.losses.lines(), *control.warnings],
                "warned": _warned(control),
                "overrides": list(control.config.egress.resolve),
                "last_event": control.hub.last_id,
            }
        )

    async def config(self, _: Request) -> Response:
        """The configuration file as it is. It holds no secrets, only references and digests."""
        return PlainTextResponse(self._control.config_path.read_text(encoding="utf-8"))

    async def reload(self, request: Request) -> Response:
        """Read the file again and apply it."""
        await read_object(request, [])
        await self._control.reload()
        return JSONResponse({"reloaded": True})

    async def shutdown(self, request: Request) -> Response:
        """Begin to stop, and remove everything that runs."""
        await read_object(request, [])
        self._control.shutdown()
        return JSONResponse({"stopping": True}, 202)


def _warned(control: Control) -> list[str]:
    """The servers whose missing isolation `warnings` reports already, so that a reader need not repeat it."""
    shown = {warning.key_path for warning in control.config.warnings if str(warning) in control.warnings}
    return [
        name
        for name in control.config.servers
        if shown & {render_path(("mcpServers", name, *key)) for key in (("url",), ("network", "isolated"))}
    ]
