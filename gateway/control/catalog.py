"""The catalog in the API."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.control.base import Control
from gateway.control.wire import ApiError
from registry import catalog
from registry.model.server import Server

_VERSION: Final = re.compile(r"(?<=.)(?:@[^/]*|[=~<>!]=.*|:[^/]*)$")
"""The version of a package (`name@1.2`, `name==1.2`) or the tag or digest of an image."""


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


def added_as(server: catalog.CatalogServer, there: Mapping[str, Server]) -> list[str]:
    """The servers of the configuration that are this one, whatever they are called: same image, or same package."""
    mine = _program(server.image, server.command, server.args)
    return [name for name, one in there.items() if _program(one.image, one.command, one.args) == mine]


def _program(image: str | None, command: str | None, args: Sequence[str]) -> tuple[str, str]:
    """What runs, without its version."""
    if image:
        return "image", _VERSION.sub("", image)
    package = next((word for word in args if not word.startswith("-")), "")
    return command or "", _VERSION.sub("", package)


async def info(request: Request) -> Response:
    """One server in the catalog."""
    try:
        server = catalog.info(request.path_params["name"])
    except catalog.CatalogError as error:
        raise ApiError(404, "unknown_server", str(error.args[0])) from None
    return JSONResponse(details(server))


def catalog_routes(control: Control) -> Iterable[BaseRoute]:
    """The routes below /catalog."""

    async def search(request: Request) -> Response:
        """The servers that match `q` (default: all), with the names under which each is in the configuration."""
        found = catalog.search(request.query_params.get("q", "")[:200])
        there = control.config.servers
        return JSONResponse({"servers": [{**summary(one), "added_as": added_as(one, there)} for one in found]})

    return [Route("/catalog", search), Route("/catalog/{name}", info)]
