"""Backends through the API: see them, add, remove, restart, change what they may reach, approve their tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from egress.policy.decide import PolicyError, parse_policy
from gateway.control.base import Control, Edited
from gateway.control.blocked import refused_sentence
from gateway.control.streams import Streams
from gateway.control.wire import ApiError, bad, flag, mapping, port_of, read_object, switch, text
from gateway.runtime.sandbox.errors import BackendUnavailable
from gateway.runtime.supervise.status import BackendStatus
from observability.events import BackendState
from registry import edit
from registry.config import Config
from registry.model.build import BUILD


def need_backend(config: Config, name: str) -> str:
    """The name, when the configuration has such a backend. Raises ApiError 404, naming those there are."""
    if name not in config.servers:
        there = ", ".join(sorted(config.servers)) or "none"
        raise ApiError(
            404, "unknown_backend", f"There is no server {name!r} in the configuration; there are: {there}."
        )
    return name


def need_isolated(config: Config, name: str) -> None:
    """Raises ApiError for a server that no policy holds."""
    if not config.servers[name].isolated:
        message = f"{name} is not isolated: no policy holds it, and what it reaches is not observed."
        raise ApiError(409, "not_isolated", message)


def edited_json(edited: Edited) -> dict[str, Any]:
    """What a change did."""
    return {"diff": edited.diff, "applied": edited.applied, "warnings": list(edited.warnings)}


class BackendRoutes:
    """`backends` and what is below it."""

    def __init__(self, control: Control, streams: Streams) -> None:
        self._control = control
        self._streams = streams

    def routes(self) -> Iterable[BaseRoute]:
        return [
            Route("/backends", self.list, methods=["GET"]),
            Route("/backends", self.add, methods=["POST"]),
            Route("/backends/{name}", self.show, methods=["GET"]),
            Route("/backends/{name}", self.remove, methods=["DELETE"]),
            Route("/backends/{name}/logs", self.logs),
            Route("/backends/{name}/restart", self.restart, methods=["POST"]),
            Route("/backends/{name}/network", self.set_network, methods=["PUT"]),
            Route("/backends/{name}/network/check", self.check_network, methods=["POST"]),
            Route("/backends/{name}/egress/allow", self.allow, methods=["POST"]),
            Route("/tools/approve", self.approve, methods=["POST"]),
        ]

    def _name(self, request: Request) -> str:
        return need_backend(self._control.config, request.path_params["name"])

    def _summary(self, status: BackendStatus) -> dict[str, Any]:
        server = self._control.config.servers.get(status.name)
        return {
            "name": status.name,
            "state": status.state,
            "detail": self._detail(status),
            "transport": status.transport,
            "isolated": status.isolated,
            "image": status.image,
            "source": status.source,
            "package": status.package,
            "version": status.version,
            "containers": list(status.containers),
            "restarts": status.restarts,
            "since": status.since,
            "ended": status.ended,
            "warnings": list(status.warnings),
            **self._control.endpoint.flaws(status.name),
            "direct_supported": status.direct_supported,
            "network": server.network.block if server else {},
            "remote": server.remote if server else False,
            "disabled": server.disabled if server else False,
        }

    def _detail(self, status: BackendStatus) -> str:
        """What is wrong with it, and what it was refused since its start: that is often why."""
        wrong = status.detail or self._trouble(status)
        refused = self._control.endpoint.refused(status.name) if wrong and status.isolated else ()
        if refused and not wrong.endswith((".", "!", "?")):
            wrong += "."
        return " ".join([wrong, *(refused_sentence(event) for event in refused)])

    def _trouble(self, status: BackendStatus) -> str:
        """A process that runs is not yet a server that answers."""
        spoken_to = status.state in (BackendState.RUNNING, BackendState.REMOTE)
        return self._control.endpoint.trouble(status.name) if spoken_to else ""

    async def list(self, _: Request) -> Response:
        """All backends with their state and policy."""
        return JSONResponse({"backends": [self._summary(s) for s in self._control.supervisor.status()]})

    async def show(self, request: Request) -> Response:
        """One backend, with its tools and its entry as the file has it (secrets are references, never values)."""
        name = self._name(request)
        found = [s for s in self._control.supervisor.status() if s.name == name]
        if not found:
            raise ApiError(503, "not_started", f"The gateway is still starting {name}. Try again in a moment.")
        server = self._control.config.servers[name]
        entry = server.model_dump(mode="json", exclude_unset=True)
        tools = [dict(tool) for tool in self._control.endpoint.tools(name)]
        changed = [
            {"tool": one.tool, "before": one.before, "after": one.after}
            for one in self._control.endpoint.differences(name)
        ]
        return JSONResponse({**self._summary(found[0]), "entry": entry, "tools": tools, "changed_tools": changed})

    async def add(self, request: Request) -> Response:
        """Write a new backend into the file and start it."""
        body = await read_object(request, ["name", "entry", "dry_run"])
        name, entry = text(body, "name"), mapping(body, "entry")
        if name in self._control.config.servers:
            raise ApiError(
                409, "exists", f"There is a server {name!r} already. Choose another name, or remove it first."
            )
        edited = await self._control.edit(edit.add_server(name, entry), dry_run=flag(body, "dry_run"))
        return JSONResponse(edited_json(edited), 200 if not edited.applied else 201)

    async def remove(self, request: Request) -> Response:
        """Take a backend out of the file and stop it."""
        change = edit.remove_server(self._name(request))
        return JSONResponse(edited_json(await self._control.edit(change, dry_run=switch(request, "dry_run"))))

    async def logs(self, request: Request) -> Response:
        """A backend's output."""
        return await self._streams.logs(request, self._name(request))

    async def restart(self, request: Request) -> Response:
        """Stop and start a backend together with its door; reconnect to a remote one."""
        await read_object(request, [])
        name = self._name(request)
        server = self._control.config.servers[name]
        if not server.remote or server.disabled:
            try:
                await self._control.supervisor.restart(name)
            except BackendUnavailable as error:
                raise ApiError(409, "backend_unavailable", f"Server {name}: {error.sentence}") from error
        self._control.endpoint.reconnect(name)
        return JSONResponse({"restarted": name})

    async def set_network(self, request: Request) -> Response:
        """Replace a backend's network block; it takes effect at once."""
        name = self._name(request)
        body = await read_object(request, ["block", "dry_run"])
        block = mapping(body, "block")
        parse_policy(block)
        edited = await self._control.edit(edit.set_network(name, block), dry_run=flag(body, "dry_run"))
        return JSONResponse(edited_json(edited))

    async def check_network(self, request: Request) -> Response:
        """Every problem in a network block, while it is typed; writes nothing."""
        self._name(request)
        block = mapping(await read_object(request, ["block"]), "block")
        try:
            parse_policy(block)
        except PolicyError as error:
            problems = [{"path": ".".join(map(str, p.path)), "message": p.message} for p in error.problems]
            return JSONResponse({"problems": problems})
        return JSONResponse({"problems": []})

    async def allow(self, request: Request) -> Response:
        """Allow a backend, or the installation of its image (`build:NAME`), one more host (and port)."""
        asked = request.path_params["name"]
        name = need_backend(self._control.config, asked.removeprefix(BUILD))
        body = await read_object(request, ["host", "port", "dry_run"])
        if asked == name and not self._control.config.servers[name].isolated:
            raise ApiError(
                409, "not_isolated", f"{name} is not isolated: no policy holds it, so there is nothing to allow."
            )
        change = edit.allow_host(asked, text(body, "host"), port_of(body))
        return JSONResponse(edited_json(await self._control.edit(change, dry_run=flag(body, "dry_run"))))

    async def approve(self, request: Request) -> Response:
        """Accept the changed definition of a tool; `after`: only if that is the text that a person was shown."""
        body = await read_object(request, ["backend", "tool", "after"])
        name = need_backend(self._control.config, text(body, "backend"))
        tool = text(body, "tool")
        if "after" in body:
            after = text(body, "after", "")
            shown = {one.tool: one.after for one in self._control.endpoint.differences(name)}
            if shown.get(tool) != after:
                raise ApiError(409, "changed_meanwhile", f"{tool} has changed again. Read what it says now first.")
        try:
            self._control.endpoint.approve(name, tool)
        except (KeyError, LookupError):
            raise bad(f"{name} has no tool {tool!r} waiting for approval.", "tool", "unknown_tool") from None
        return JSONResponse({"approved": tool, "backend": name})
