"""What each client sees: its view of the backends' names, from the configuration and the lists as last read.

Names and owners are worked out once for all clients, on the first question after a list or the configuration changed; a view
is made once for each client and route. Conflicts between backends are reported once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from gateway.mcp.upstream.backend import Backend
from gateway.mcp.upstream.cache import ListCache
from gateway.mcp.view.claims import Claims
from gateway.mcp.view.listing import Kind, Listing
from gateway.mcp.view.pins import Pins
from gateway.mcp.view.views import Directory, Rules, View, view_for
from observability.events import Event, NoticeEvent, Severity, ToolChange, ToolEvent
from registry.config import Config

_MAX_REPORTED: Final = 10_000
_MAX_VIEWS: Final = 4096


class Visibility:
    """The directory of names, and the clients' views on it."""

    def __init__(
        self, backends: Mapping[str, Backend], pins: Pins, cache: ListCache, emit: Callable[[Event], object]
    ) -> None:
        self.rules: dict[str, Rules] = {}
        """The rules of each backend that is not disabled."""
        self._backends = backends
        self._pins = pins
        self._cache = cache
        self._emit = emit
        self._config = Config()
        self._claims = Claims(cache.contested)
        self._views: dict[tuple[str, str], View | None] = {}
        self._directory: Directory | None = None
        self._reported: set[tuple[str, ...]] = set()

    def apply(self, config: Config) -> None:
        """Take a configuration; call `renew` when the backends follow it."""
        self._config = config
        self.rules = {
            name: Rules(name, server, config.gateway.separator)
            for name, server in config.servers.items()
            if not server.disabled
        }

    def renew(self) -> None:
        """Make all views again, for the configuration that was applied."""
        self._claims.retain(list(self.rules))
        self._views.clear()
        self.lists_changed()

    def lists_changed(self) -> None:
        """A list is another one now, or is shown differently: names and owners are worked out again."""
        self._directory = None

    def directory(self) -> Directory:
        """The current names and owners."""
        if self._directory is None:
            listings: dict[tuple[str, Kind], Listing] = {
                (name, kind): listing
                for name, backend in self._backends.items()
                for kind, listing in backend.catalog.lists.items()
            }
            self._directory = Directory(self.rules, listings, self._config.gateway.separator, self._claims)
            self._cache.note_contested(self._claims.contested)
            self._report_conflicts(self._directory)
        return self._directory

    def view(self, client: str, route: str) -> View | None:
        """What a client sees on a route; None where there is nothing of that name for it."""
        key = (client, route)
        if key not in self._views:
            if len(self._views) > _MAX_VIEWS:
                self._views.clear()
            if route and route not in self._backends:
                return None
            self._views[key] = view_for(self._config, client, route, self.directory, self._pins.hidden)
        return self._views[key]

    def _report_conflicts(self, directory: Directory) -> None:
        """Report once what two backends wanted, and which has it."""
        now = time.time()
        for name, tool, instead in directory.tables[Kind.TOOLS].conflicts:
            detail = f"another server has that name already; this one is {instead}"
            event = ToolEvent(time=now, backend=name, tool=tool, change=ToolChange.RENAMED, detail=detail)
            self.report_once(event, name, tool)
        for kind, name, owner, key in directory.contested:
            message = (
                f"Server {name} lists a resource that server {owner} had first, such as {key[:200]!r}. On /mcp it stays "
                f"{owner}'s; /servers/{name}/mcp has this one's."
            )
            notice = NoticeEvent(
                time=now, source="gateway", code="resource_contested", severity=Severity.WARNING, backend=name,
                message=message,
            )  # fmt: skip
            self.report_once(notice, kind.value, name, owner)

    def report_once(self, event: Event, *about: str) -> None:
        """Emit the event unless one about the same was emitted before."""
        if about not in self._reported and len(self._reported) < _MAX_REPORTED:
            self._reported.add(about)
            self._emit(event)
