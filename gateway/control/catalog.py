"""The catalog in the API."""

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
    """A server of the catalog as a row of a list."""
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
    """All details, with the entry that would be written and what the user must still provide."""
    needs = [dataclasses.asdict(need) for need in catalog.needs(server.name)]
    return {
        **server.model_dump(mode="json"),
        **summary(server),
        "entry": catalog.entry(server.name),
        "needs": needs,
    }


async def search(request: Request) -> Response:
    """The servers that match `q` (default: all)."""
    found = catalog.search(request.query_params.get("q", "")[:200])
    return JSONResponse({"servers": [summary(server) for server in found]})


async def info(request: Request) -> Response:
    """One server in the catalog."""
    try:
        server = catalog.info(request.path_params["name"])
    except catalog.CatalogError as error:
        raise ApiError(404, "unknown_server", str(error.args[0])) from None
    return JSONResponse(details(server))


def catalog_routes() -> Iterable[BaseRoute]:
    return [Route("/catalog", search), Route("/catalog/{name}", info)]
