"""The catalogue through the API."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.control.wire import ApiError
from registry import catalog


def summary(server: catalog.CatalogServer) -> dict[str, Any]:
    """A server of the catalogue in a list."""
    return {
        "name": server.name,
        "title": server.title,
        "description": server.description,
        "homepage": server.homepage,
        "source": server.source,
        "transport": server.type,
        "tags": list(server.tags),
    }


def details(server: catalog.CatalogServer) -> dict[str, Any]:
    """All about it: the entry that would be written, and what the person must still give."""
    needs = catalog.needs(server.name)
    return {
        **summary(server),
        "entry": catalog.entry(server.name),
        "needs": [dataclasses.asdict(need) for need in needs],
        "secrets": [variable.name for variable in (*server.env, *server.inputs) if variable.secret],
        "env": [variable.model_dump(mode="json") for variable in server.env],
        "mounts": [mount.model_dump(mode="json") for mount in server.mounts],
        "hosts": [host.model_dump(mode="json") for host in server.network.allowed_hosts],
        "network_note": server.network_note,
        "tools": [tool.model_dump(mode="json") for tool in server.tools],
    }


async def search(request: Request) -> Response:
    """Servers of the catalogue that match `q`; all without it."""
    found = catalog.search(request.query_params.get("q", "")[:200])
    return JSONResponse({"servers": [summary(server) for server in found]})


async def info(request: Request) -> Response:
    """One server of the catalogue."""
    try:
        server = catalog.info(request.path_params["name"])
    except catalog.CatalogError as error:
        raise ApiError(404, "unknown_server", str(error.args[0])) from None
    return JSONResponse(details(server))


def catalogue_routes() -> Iterable[BaseRoute]:
    return [Route("/catalog", search), Route("/catalog/{name}", info)]
