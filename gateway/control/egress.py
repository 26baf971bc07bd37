"""Connections from the history, allowed and denied, and explanations from the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from egress.policy.decide import parse_policy
from egress.policy.explain import explain
from egress.policy.liftable import NAMED_BY_HOST
from egress.policy.suggest import suggest
from gateway.control.backends import need_backend, need_isolated
from gateway.control.base import Control
from gateway.control.blocked import advice, as_blocked, blocked_json
from gateway.control.keep_blocked import Place
from gateway.control.wire import ApiError, bad, count, port_of, read_object, switch, text
from gateway.disk import in_words
from observability.events import NAME_LIMIT, By, Decision, Reason, Via, notice
from observability.history_queries import Blocked, ConnectionFilter, ConnectionRow, Lookup
from registry.model.build import BUILD

MAX_ROWS = 5000
INSIDE = Reason.INNER_HOST_MISMATCH
"""Such a request never reached its host, and no rule would allow it inside a connection to another host."""


def connection_json(row: ConnectionRow) -> dict[str, Any]:
    """One connection with the fields of an egress event, as of its latest event."""
    phase = "decided" if row.closed is None else "closed"
    return {"kind": "egress", "phase": phase, **row.to_json()}


def lookup_json(row: Lookup) -> dict[str, Any]:
    """A looked-up name; `method` is the query types as one text."""
    return {**row.to_json(), "method": ", ".join(row.types), "via": "dns"}


class EgressRoutes:
    """`egress/…`, `explain`, and the suggestion for a backend."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> Iterable[BaseRoute]:
        return [
            Route("/egress/connections", self.connections),
            Route("/egress/top", self.top),
            Route("/egress/blocked", self.blocked),
            Route("/egress/kept", self.kept, methods=["GET"]),
            Route("/egress/kept", self.keep, methods=["POST"]),
            Route("/egress/kept", self.release, methods=["DELETE"]),
            Route("/egress/lookups", self.lookups),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/backends/{name}/egress/suggest", self.suggest),
        ]

    async def connections(self, request: Request) -> Response:
        """Connections, newest first; `before` pages back. With `fair`, each backend has its share of the rows."""
        wanted = ConnectionFilter(
            backend=request.query_params.get("backend", ""),
            decision=_word(request, "decision", Decision),
            reason=_word(request, "reason", Reason),
            via=_word(request, "via", Via),
            text=request.query_params.get("q", "")[:253],
            tool=request.query_params.get("tool", ""),
            open=switch(request, "open"),
            fair=switch(request, "fair"),
            since=_seconds(request, "since"),
            before_id=count(request, "before", 0, 10**18),
            limit=count(request, "limit", 200, MAX_ROWS),
        )
        rows = await asyncio.to_thread(self._control.history.egress, wanted)
        return JSONResponse({"connections": [connection_json(row) for row in rows]})

    async def top(self, request: Request) -> Response:
        """The most frequent hosts (or backends, rules, reasons, tools: `by`)."""
        by = By(_word(request, "by", By) or By.HOST)
        rows = await asyncio.to_thread(
            self._control.history.top,
            by,
            backend=request.query_params.get("backend", ""),
            decision=_word(request, "decision", Decision),
            since=_seconds(request, "since"),
            limit=count(request, "limit", 20, 1000),
        )
        return JSONResponse({"by": by, "top": [row.to_json() for row in rows]})

    async def blocked(self, request: Request) -> Response:
        """Denied hosts grouped by backend, host and port; `more` were found; `lost` reports unrecorded events.

        With `lookups`, names that were only looked up are among them.
        """
        narrow = self._narrow(request)
        found = await asyncio.to_thread(self._control.history.blocked_list, **narrow)
        rows = list(found.rows)
        if switch(request, "lookups"):
            rows += map(as_blocked, await asyncio.to_thread(self._control.history.lookups, **narrow))
            rows.sort(key=attrgetter("last"), reverse=True)
        told = [{**blocked_json(row), **found} for row, found in zip(rows, self._advice(rows), strict=True)]
        return JSONResponse({"blocked": told, "more": found.more, "lost": self._control.losses.lines()})

    async def kept(self, _: Request) -> Response:
        """What a person decided to keep blocked, oldest choice first."""
        return JSONResponse({"kept": self._control.kept_blocked.rows()})

    async def keep(self, request: Request) -> Response:
        """A person decided that a blocked host stays blocked. Changes no policy."""
        body = await read_object(request, ["backend", "host", "port"])
        server = need_backend(self._control.config, text(body, "backend"))
        return self._settle(Place(server, text(body, "host", ""), port_of(body) or 0), keep=True)

    async def release(self, request: Request) -> Response:
        """Takes such a choice back: the host is undecided again."""
        asked = request.query_params
        place = Place(asked.get("backend", ""), asked.get("host", ""), count(request, "port", 0, 65535))
        return self._settle(place, keep=False)

    def _settle(self, place: Place, *, keep: bool) -> Response:
        if len(place.host) > NAME_LIMIT:
            raise bad(f"`host` must have at most {NAME_LIMIT} characters.", "host")
        if not place.host.isprintable():
            raise bad("`host` must be printable text.", "host")
        kept = self._control.kept_blocked
        try:
            changed = kept.keep(place) if keep else kept.release(place)
        except OSError as error:
            raise ApiError(500, "not_saved", in_words(error)) from error
        if changed:
            what = "is kept blocked" if keep else "is undecided again"
            where = f"{place.host or 'Another port'}{f':{place.port}' if place.port else ''}"
            self._control.hub.publish(notice("page", "kept_blocked", f"{where} {what}.", backend=place.server))
        return JSONResponse({"kept_blocked": keep, "changed": changed})

    async def lookups(self, request: Request) -> Response:
        """Names that servers looked up themselves and never asked the proxy for, with the same advice."""
        rows = await asyncio.to_thread(self._control.history.lookups, **self._narrow(request))
        found = self._advice(map(as_blocked, rows))
        return JSONResponse({"lookups": [{**lookup_json(row), **one} for row, one in zip(rows, found, strict=True)]})

    def _advice(self, rows: Iterable[Blocked]) -> list[dict[str, Any]]:
        servers = self._control.config.servers
        policies = {name: parse_policy(one.network.block) for name, one in servers.items()}
        policies |= {
            f"{BUILD}{name}": parse_policy({"allowed_hosts": list(one.build.allowed_hosts)})
            for name, one in servers.items()
        }
        around = self._control.surroundings()
        return [advice(row, policies, around, self._control.kept_blocked) for row in rows]

    def _narrow(self, request: Request) -> dict[str, Any]:
        return {
            "backend": request.query_params.get("backend", ""),
            "since": _seconds(request, "since"),
            "limit": count(request, "limit", 200, MAX_ROWS),
        }

    async def explain(self, request: Request) -> Response:
        """Whether a connection would be allowed, and which rule decides. Makes no connection and no lookup."""
        body = await read_object(request, ["backend", "url"])
        name = need_backend(self._control.config, text(body, "backend"))
        need_isolated(self._control.config, name)
        policy = parse_policy(self._control.config.servers[name].network.block)
        try:
            found = explain(policy, text(body, "url"), self._control.surroundings(), server=name)
        except ValueError as error:
            raise bad(f"{str(error).rstrip('.')}.", "url") from None
        return JSONResponse(
            {
                "backend": name,
                "decision": found.decision,
                "rule": found.rule.text if found.rule else "",
                "reason": found.reason or "",
                "sentence": found.sentence,
            }
        )

    async def suggest(self, request: Request) -> Response:
        """The smallest network block for what this backend reached; with `denied`, also for what was denied.

        Everything in the policy except hosts, ports and mode stays as it is.
        """
        name = need_backend(self._control.config, request.path_params["name"])
        need_isolated(self._control.config, name)
        wanted = ConnectionFilter(backend=name, since=_seconds(request, "since"), limit=MAX_ROWS)
        rows = await asyncio.to_thread(self._control.history.egress, wanted)
        asked = [row for row in rows if row.host and row.port and row.via != Via.DNS and row.reason != INSIDE]
        denied = [row for row in asked if row.decision == Decision.DENY and row.reason in NAMED_BY_HOST]
        asked = [row for row in asked if row.decision != Decision.DENY] + denied
        used = asked if switch(request, "denied") else [row for row in asked if row not in denied]
        kept = self._control.config.servers[name].network.block
        rest = {key: value for key, value in kept.items() if key not in {"allowed_hosts", "allowed_ports", "mode"}}
        block = {**rest, **suggest((row.host, row.port) for row in used)}
        return JSONResponse({"backend": name, "connections": len(used), "denied": len(denied), "block": block})


def _word(request: Request, name: str, vocabulary: Iterable[str]) -> str:
    word = request.query_params.get(name, "")
    known = list(vocabulary)
    if word and word not in known:
        raise bad(f"`{name}` has an unknown value; known: {', '.join(known)}.", name)
    return word


def _seconds(request: Request, name: str) -> float:
    raw = request.query_params.get(name, "0")
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e12:
        raise bad(f"`{name}` must be a Unix time in seconds.", name)
    return value
