"""Which backend a request goes to, and whether the client may make it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mcp.shared.inbound import InboundLadderRejection, decode_header_value, validate_mcp_param_headers

from gateway.mcp.call.caller import LEVELS, Caller
from gateway.mcp.call.outcome import Outcome, Result, refused
from gateway.mcp.call.task_table import EXTENSION, METHODS, Known, TaskTable
from gateway.mcp.route.calls import Calls
from gateway.mcp.route.lists import Lists
from gateway.mcp.route.subscriptions import Subscriptions
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.view import uris
from gateway.mcp.view.listing import KIND_OF_METHOD, Kind
from gateway.mcp.view.search import SEARCH_TOOLS, Search
from gateway.mcp.wire.errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    RESOURCE_NOT_FOUND,
    RpcError,
)
from observability.events import CallEvent, Event, ToolChange, ToolEvent
from observability.instruments import Meters
from observability.semconv import OTHER
from registry.model.fields import Pin

_LEGACY_ONLY: Final = frozenset({"ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
_MODERN_ONLY: Final = frozenset({"server/discover", "subscriptions/listen"})
_MAX_SUBSCRIPTIONS: Final = 1000
_MAX_NAME: Final = 64 * 1024
"""Characters of a name or URI; a session may subscribe to a thousand of them."""

Handler = Callable[[Caller, dict[str, Any]], Awaitable[Outcome]]


class Router:
    """Dispatches a client's requests."""

    def __init__(
        self,
        *,
        backends: Mapping[str, Backend],
        calls: Calls,
        lists: Lists,
        subscriptions: Subscriptions,
        search: Search,
        emit: Callable[[Event], object],
        meters: Meters,
    ) -> None:
        self._backends = backends
        self._calls = calls
        self._lists = lists
        self._subscriptions = subscriptions
        self._search = search
        self.tasks = TaskTable()
        self._emit = emit
        self._meters = meters
        self._handlers: Mapping[str, Handler] = {
            "prompts/get": self._prompt,
            "resources/read": self._resource,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
            "completion/complete": self._complete,
            "logging/setLevel": self._level,
            "ping": self._ping,
            "server/discover": self._discover,
            "subscriptions/listen": self._subscriptions.serve,
        }

    async def handle(self, caller: Caller, method: str, params: dict[str, Any]) -> Outcome:
        """Answer a request. Raises ClientGone."""
        try:
            if method == "tools/call":
                return await self._tool(caller, params)
            return await self._dispatch(caller, method, params)
        except RpcError as error:
            self._note(caller, method, error)
            return refused(error)

    async def _dispatch(self, caller: Caller, method: str, params: dict[str, Any]) -> Outcome:
        if method in (_LEGACY_ONLY if caller.modern else _MODERN_ONLY):
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method, kind="unknown_method")
        if (kind := KIND_OF_METHOD.get(method)) is not None:
            return await self._list(caller, kind, params)
        if (handler := self._handlers.get(method)) is not None:
            return await handler(caller, params)
        if method.startswith("tasks/"):
            return await self._task(caller, method, params)
        return await self._unknown(caller, method, params)

    def _note(self, caller: Caller, method: str, error: RpcError) -> None:
        """Count a request that was refused before any backend was asked."""
        client, backend = caller.principal.client, caller.view.route
        self._meters.observe_call(
            method=method, tool="", backend=backend, client=client, error=error.kind, duration_s=0.0, transport="tcp"
        )
        self._emit(
            CallEvent(
                time=time.time(),
                request_id=str(caller.request_id),
                method=method,
                backend=backend,
                client=client,
                tool=OTHER if method == "tools/call" else "",
                error=error.kind,
                protocol_version=caller.version,
            )
        )

    # by name

    async def _tool(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        name = _text(params, "name")
        view = caller.view
        if view.search and name in SEARCH_TOOLS:
            return await self._search_tool(caller, name, params)
        found = view.find(Kind.TOOLS, name)
        if found is None:
            self._refused(caller, name)
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {name}", kind="unknown_tool")
        return await self._call_tool(caller, found, params)

    async def _call_tool(self, caller: Caller, found: tuple[str, str], params: dict[str, Any]) -> Outcome:
        backend_name, own = found
        backend = self._backends[backend_name]
        rules = caller.view.directory.rules[backend_name]
        arguments = params.get("arguments")
        if arguments is not None and not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, "arguments must be an object")
        if not await self._is_known(caller, backend, Kind.TOOLS, own):
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {params['name']}", kind="unknown_tool")
        if backend.server.pin is Pin.STRICT:
            await self._check_pin(caller, backend, own, params["name"])
        if caller.modern:
            self._check_param_headers(caller, backend, own, arguments or {})
        shaped = rules.shape.arguments(own, arguments)
        if own != params["name"] or shaped is not arguments:
            params = {**params, "name": own}
            if shaped is not None:
                params["arguments"] = shaped
        label = self._label(backend, Kind.TOOLS, own)
        outcome = await self._calls.run(caller, backend, "tools/call", params, key=own, label=label)
        if isinstance(outcome, Result):
            self.tasks.learn(outcome.value, caller.principal, backend_name, own)
        return outcome

    async def _is_known(self, caller: Caller, backend: Backend, kind: Kind, own: str) -> bool:
        """Whether the name may be used. Where names are filtered, it must be on a list: a server may fold or trim a name and
        take it for one that the filter hides."""
        if not caller.view.narrows(kind, backend.name) or backend.catalog.has(kind, caller, own):
            return True
        return await backend.catalog.look_for(kind, caller, own)

    async def _check_pin(self, caller: Caller, backend: Backend, own: str, name: str) -> None:
        """Check that the tool is still the pinned one: read the list over the connection that will carry the call."""
        await backend.peer(caller)
        item = (await backend.catalog.listing(Kind.TOOLS, caller, anew=True)).by_key(Kind.TOOLS, own)
        if item is None or not caller.view.shows(Kind.TOOLS, backend.name, own, item):
            self._refused(caller, name)
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {name}", kind="unknown_tool")

    def _check_param_headers(self, caller: Caller, backend: Backend, tool: str, arguments: Mapping[str, Any]) -> None:
        if not arguments and not any(name.startswith("mcp-param-") for name in caller.headers):
            return
        schema = backend.catalog.schema(tool)
        if schema is None:
            return
        rejection = validate_mcp_param_headers(schema, arguments, caller.headers)
        if isinstance(rejection, InboundLadderRejection):
            raise RpcError(rejection.code, rejection.message, rejection.data)

    def _label(self, backend: Backend, kind: Kind, name: str) -> str:
        listing = backend.catalog.lists.get(kind)
        return name if listing is not None and listing.has(kind, name) else OTHER

    def _refused(self, caller: Caller, name: str) -> None:
        """Report that a client asked for a tool it may not see; a name that no backend has is not reported."""
        view = caller.view
        found = (
            (view.route, name) if view.route else view.directory.owner(Kind.TOOLS, name, tuple(view.directory.rules))
        )
        if found is None:
            return
        backend = self._backends.get(found[0])
        if backend is not None and self._label(backend, Kind.TOOLS, found[1]) != OTHER:
            self._emit(
                ToolEvent(
                    time=time.time(),
                    backend=found[0],
                    tool=found[1],
                    change=ToolChange.FILTERED,
                    client=caller.principal.client,
                    detail="a call of a tool that this client may not see was refused",
                )
            )

    async def _prompt(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        name = _text(params, "name")
        found = caller.view.find(Kind.PROMPTS, name)
        if found is None:
            raise RpcError(INVALID_PARAMS, f"Unknown prompt: {name}", kind="unknown_prompt")
        backend, own = self._backends[found[0]], found[1]
        if not await self._is_known(caller, backend, Kind.PROMPTS, own):
            raise RpcError(INVALID_PARAMS, f"Unknown prompt: {name}", kind="unknown_prompt")
        if own != name:
            params = {**params, "name": own}
        label = self._label(backend, Kind.PROMPTS, own)
        return await self._calls.run(caller, backend, "prompts/get", params, key=own, label=label)

    # by URI

    async def _owner(self, caller: Caller, uri: str) -> Backend:
        owner = caller.view.owner_of(uri)
        why = uris.flaw(uri)
        if owner is None and (why or not caller.view.route):
            await self._lists.listed(caller, Kind.RESOURCES, {})
            await self._lists.listed(caller, Kind.TEMPLATES, {})
            owner = caller.view.owner_of(uri)
        if owner is None and why:
            raise RpcError(INVALID_PARAMS, f"This is no URI: {why}", kind="invalid_uri")
        if owner is None:
            code = INVALID_PARAMS if caller.modern else RESOURCE_NOT_FOUND
            raise RpcError(code, f"Resource not found: {uri}", {"uri": uri}, kind="unknown_resource")
        return self._backends[owner]

    async def _resource(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        uri = _text(params, "uri")
        return await self._calls.run(caller, await self._owner(caller, uri), "resources/read", params, key=uri)

    async def _subscribe(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        uri = _text(params, "uri")
        backend = await self._owner(caller, uri)
        session = caller.session
        assert session is not None
        if len(session.subscriptions) >= _MAX_SUBSCRIPTIONS:
            raise RpcError(INVALID_PARAMS, f"This session watches {_MAX_SUBSCRIPTIONS} resources already")
        peer = await backend.peer(caller)
        if peer.session == session.id:
            outcome = await self._calls.run(caller, backend, "resources/subscribe", params, key=uri)
            if isinstance(outcome, Result):
                session.subscriptions.add(uri)
            return outcome
        await self._subscriptions.watch(backend, uri, session)
        session.subscriptions.add(uri)
        return Result({})

    async def _unsubscribe(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        uri = _text(params, "uri")
        session = caller.session
        assert session is not None
        backend = await self._owner(caller, uri)
        session.subscriptions.discard(uri)
        peer = await backend.peer(caller)
        if peer.session == session.id:
            return await self._calls.run(caller, backend, "resources/unsubscribe", params, key=uri)
        await self._subscriptions.unwatch(backend, uri, session)
        return Result({})

    async def _complete(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        ref = params.get("ref")
        if not isinstance(ref, dict):
            raise RpcError(INVALID_PARAMS, "ref must be an object")
        if ref.get("type") == "ref/prompt":
            name = _text(ref, "name")
            found = caller.view.find(Kind.PROMPTS, name)
            if found is None:
                raise RpcError(INVALID_PARAMS, f"Unknown prompt: {name}", kind="unknown_prompt")
            backend = self._backends[found[0]]
            if not await self._is_known(caller, backend, Kind.PROMPTS, found[1]):
                raise RpcError(INVALID_PARAMS, f"Unknown prompt: {name}", kind="unknown_prompt")
            if found[1] != name:
                params = {**params, "ref": {**ref, "name": found[1]}}
        elif ref.get("type") == "ref/resource":
            backend = await self._owner(caller, _text(ref, "uri"))
        else:
            raise RpcError(INVALID_PARAMS, "ref must be a prompt or a resource")
        return await self._calls.run(caller, backend, "completion/complete", params)

    # by task

    async def _task(self, caller: Caller, method: str, params: dict[str, Any]) -> Outcome:
        if caller.modern:
            _check_task_request(caller, method, params)
        elif method == "tasks/list":
            known = self.tasks.of(caller.principal, caller.view.backends)
            return Result({"tasks": [one.task for one in known if self._may_use(caller, one)]})
        task_id = _text(params, "taskId")
        found = self.tasks.find(task_id, caller.principal, caller.view.backends)
        found = [one for one in found if self._may_use(caller, one)]
        if len(found) > 1:
            names = ", ".join(one.backend for one in found)
            raise RpcError(
                INVALID_PARAMS,
                f"Task {task_id} could be of {names}: use /servers/NAME/mcp for it",
                kind="ambiguous_task",
            )
        if not found:
            raise RpcError(INVALID_PARAMS, f"Unknown task: {task_id}", kind="unknown_task")
        return await self._calls.run(caller, self._backends[found[0].backend], method, params, key=task_id)

    def _may_use(self, caller: Caller, task: Known) -> bool:
        """A client can use a task while it may see the tool that began it."""
        return caller.view.shows(Kind.TOOLS, task.backend, task.tool)

    # what the gateway answers itself

    async def _list(self, caller: Caller, kind: Kind, params: dict[str, Any]) -> Outcome:
        result = await self._lists.listed(caller, kind, params)
        if kind is Kind.TOOLS and caller.view.search:
            result.pop("nextCursor", None)
            result["tools"] = self._search.shown(caller.view, self._lists.tools(caller))
        return Result(result)

    async def _search_tool(self, caller: Caller, name: str, params: dict[str, Any]) -> Outcome:
        arguments = params.get("arguments")
        arguments = arguments if isinstance(arguments, dict) else {}
        if name == "find_tool":
            await self._lists.listed(caller, Kind.TOOLS, {})
            found = self._search.find(caller.view, self._lists.tools(caller), arguments)
            return Result(found if not caller.modern else {"resultType": "complete", **found})
        wanted = _text(arguments, "name")
        target = caller.view.find(Kind.TOOLS, wanted)
        if target is None:
            self._refused(caller, wanted)
            raise RpcError(INVALID_PARAMS, f"Unknown tool: {wanted}", kind="unknown_tool")
        inner = {**params, "name": wanted, "arguments": arguments.get("arguments") or {}}
        return await self._call_tool(caller, target, inner)

    async def _discover(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        return Result(await self._lists.discovered(caller))

    async def _ping(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        return Result({})

    async def _level(self, caller: Caller, params: dict[str, Any]) -> Outcome:
        level = params.get("level")
        session = caller.session
        if level not in LEVELS or session is None:
            raise RpcError(INVALID_PARAMS, f"level must be one of {', '.join(LEVELS)}")
        session.level = level
        for name in caller.view.backends:
            backend = self._backends.get(name)
            peer = backend.ready(caller) if backend is not None else None
            if backend is not None and peer is not None and not peer.modern:
                await backend.levels.set(peer, level)
        return Result({})

    async def _unknown(self, caller: Caller, method: str, params: dict[str, Any]) -> Outcome:
        """A method that the gateway does not know: passed on if the route has one backend and the client sees all of it."""
        view = caller.view
        rules = view.directory.rules.get(view.route)
        if rules is None or not rules.whole or view.restricted or "/" not in method:
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method, kind="unknown_method")
        return await self._calls.run(caller, self._backends[view.route], method, params)


def _check_task_request(caller: Caller, method: str, params: Mapping[str, Any]) -> None:
    """Check what the Tasks extension requires of a request, before revealing whether the task exists."""
    if method not in METHODS:
        raise RpcError(METHOD_NOT_FOUND, "Method not found", method, kind="unknown_method")
    if not caller.has_extension(EXTENSION):
        needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise RpcError(MISSING_CAPABILITY, "Missing required client capability", needed)
    if decode_header_value(caller.headers.get("mcp-name", "")) != params.get("taskId"):
        raise RpcError(HEADER_MISMATCH, "Mcp-Name must be the request's taskId")


def _text(params: Mapping[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, f"{key} must be a string")
    if len(value) > _MAX_NAME:
        raise RpcError(INVALID_PARAMS, f"{key} is longer than {_MAX_NAME} characters")
    return value
