"""AI clients in the API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.connect.connect import snippets
from gateway.control.backends import edited_json
from gateway.control.base import Control
from gateway.control.tokens import client_json, mint
from gateway.control.wire import ApiError, bad, flag, read_object, switch, text
from registry import edit

DIGEST_TO_COME = "(the SHA-256 of the new token)"
SNIPPETS = ("claude-code", "cursor", "vscode", "codex", "claude-desktop", "gemini-cli", "opencode", "zed")


def server_settings(body: dict[str, Any]) -> dict[str, Any]:
    """The field `servers` as a setting: a list of names, or "*"; nothing when it is absent."""
    value = body.get("servers")
    if value is None:
        return {}
    if value != "*" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise bad('`servers` must be a list of names, or "*".', "servers")
    return {"servers": value}


class ClientRoutes:
    """`clients` and what is below it."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> Iterable[BaseRoute]:
        return [
            Route("/clients", self.list, methods=["GET"]),
            Route("/clients", self.add, methods=["POST"]),
            Route("/clients/{name}", self.remove, methods=["DELETE"]),
        ]

    async def list(self, _: Request) -> Response:
        """All clients. Their tokens are not stored, so they are not shown."""
        found = self._control.config.clients
        return JSONResponse({"clients": [client_json(name, client) for name, client in found.items()]})

    async def add(self, request: Request) -> Response:
        """A new client: its token, this once, and what to paste into AI clients. `renew` replaces a lost token.

        With `dry_run`, the change of the file; its digest is a stand-in, since the token is made with the change.
        """
        body = await read_object(request, ["name", "servers", "renew", "dry_run"])
        name = text(body, "name")
        if name in self._control.config.clients and not flag(body, "renew"):
            raise ApiError(
                409, "exists", f"There is a client {name!r} already. Remove it first, or ask for a new token (renew)."
            )
        token, token_sha256 = mint()
        dry_run = flag(body, "dry_run")
        edited = await self._control.edit(edit.add_client(name, token_sha256, server_settings(body)), dry_run=dry_run)
        if dry_run:
            return JSONResponse(edited_json(replace(edited, diff=edited.diff.replace(token_sha256, DIGEST_TO_COME))))
        endpoint = self._control.urls.endpoint
        answer = {"name": name, "token": token, "endpoint": endpoint, "snippets": snippets(endpoint, token, SNIPPETS)}
        return JSONResponse(answer, 201)

    async def remove(self, request: Request) -> Response:
        """Remove a client from the file, which revokes its token."""
        name = request.path_params["name"]
        if name not in self._control.config.clients:
            there = ", ".join(sorted(self._control.config.clients)) or "none"
            raise ApiError(404, "unknown_client", f"There is no client {name!r}; there are: {there}.")
        edited = await self._control.edit(edit.remove_client(name), dry_run=switch(request, "dry_run"))
        return JSONResponse(edited_json(edited))
