"""What one client sees on one route: the same for every list and every call.

`Rules` are a backend's own (from `mcpServers`), a `View` is a client's (from `clients`). A `Directory` gives every
tool and prompt its name on `/mcp`, over all backends, so that names do not depend on the client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from gateway.mcp.view import uris
from gateway.mcp.view.claims import Claims
from gateway.mcp.view.filters import Globs, Shape
from gateway.mcp.view.listing import Kind, Listing
from gateway.mcp.view.names import NameTable, exposed_name, reserved_starts
from gateway.mcp.view.templates import TemplatePattern, Text
from registry.config import Config
from registry.model.fields import Pin, ToolMode
from registry.model.server import Server
from registry.model.settings import ClientSettings

_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 512
"""The decision for a longer name is not cached: names are text that a client chose."""
_MAX_TEMPLATES: Final = 128
"""Templates of one backend that URIs are matched against."""


class Rules:
    """The rules of a server's entry for its tools and prompts."""

    def __init__(self, name: str, server: Server, separator: str) -> None:
        self.name = name
        self.separator = separator
        self.prefix = name if server.prefix is None else server.prefix
        self.tools = Globs.of(server.tools.allow, server.tools.deny)
        self.prompts = Globs.of(server.prompts.allow, server.prompts.deny)
        self.shape = Shape(server.tools.rename, server.tools.describe, server.tools.defaults, server.tools.fixed)
        self.plain = not (server.tools.describe or server.tools.defaults or server.tools.fixed)
        filters = (self.tools, self.prompts)
        self.whole = (
            all(globs.allow is None and globs.deny is None for globs in filters)
            and not (server.tools.rename or server.tools.fixed)
            and server.pin is not Pin.STRICT
        )
        """Whether nothing of the backend is hidden or fixed."""

    def passes(self, kind: Kind, name: str) -> bool:
        """Whether the server's own filter shows the item."""
        match kind:
            case Kind.TOOLS:
                return self.tools.passes(name)
            case Kind.PROMPTS:
                return self.prompts.passes(name)
            case _:
                return True

    def shown(self, kind: Kind, name: str) -> str:
        """The item's name after renaming, without a prefix."""
        return self.shape.shown_as(name) if kind is Kind.TOOLS else name


class Directory:
    """Names on the aggregate endpoint, and the owners of resources."""

    def __init__(
        self,
        rules: Mapping[str, Rules],
        listings: Mapping[tuple[str, Kind], Listing],
        separator: str,
        claims: Claims | None = None,
    ) -> None:
        self.rules = rules
        self.claims = claims or Claims()
        self.contested: list[tuple[Kind, str, str, str]] = []
        """(list, the backend that wanted it, its owner, name or URI)."""
        reserved = reserved_starts({name: rule.prefix for name, rule in rules.items()}, separator)
        self.tables = {kind: NameTable(separator, self._taker(kind), reserved) for kind in (Kind.TOOLS, Kind.PROMPTS)}
        for kind, table in self.tables.items():
            for name, rule in rules.items():
                names = [item["name"] for item in _items(listings, name, kind) if rule.passes(kind, item["name"])]
                table.add(name, rule.prefix, [rule.shown(kind, item) for item in names])
        self._listers: dict[tuple[Kind, str], list[str]] = {}
        for name in rules:
            for kind, most in ((Kind.RESOURCES, None), (Kind.TEMPLATES, _MAX_TEMPLATES)):
                for item in _items(listings, name, kind)[:most]:
                    self._claim(kind, item[kind.key], name)
        for name, kind in listings:
            self.claims.read(kind, name)
        known = [key for kind, key in self._listers if kind is Kind.TEMPLATES]
        self._templates = [(TemplatePattern(one), one) for one in self.claims.in_order(Kind.TEMPLATES, known)]
        self.claims.prune([*self._listers, *((kind, name) for kind, table in self.tables.items() for name in table)])

    def _taker(self, kind: Kind) -> Callable[[str, str], str]:
        return lambda wanted, backend: self.claims.take(kind, wanted, backend)

    def _claim(self, kind: Kind, key: str, backend: str) -> None:
        owner = self.claims.take(kind, key, backend)
        listers = self._listers.setdefault((kind, key), [owner])
        if owner != backend:
            listers.append(backend)
            self.contested.append((kind, backend, owner, key))

    def exposed(self, kind: Kind, backend: str, name: str) -> str:
        """The name of a backend's tool or prompt on `/mcp`."""
        rules = self.rules[backend]
        shown = rules.shown(kind, name)
        return self.tables[kind].exposed(backend, shown) or exposed_name(rules.prefix, rules.separator, shown)

    def owner(self, kind: Kind, exposed: str, visible: Iterable[str]) -> tuple[str, str] | None:
        """(backend, its own name) of a tool or prompt on `/mcp`; None where no backend has it or it was renamed."""
        found = self.tables[kind].owner(exposed) or self._by_prefix(exposed, visible)
        if found is None or found[0] not in self.rules:
            return None
        backend, shown = found
        name = self.rules[backend].shape.original(shown) if kind is Kind.TOOLS else shown
        return None if name is None else (backend, name)

    def _by_prefix(self, exposed: str, visible: Iterable[str]) -> tuple[str, str] | None:
        """The backend and name for a name on no list: the backend may know it nevertheless."""
        for backend in visible:
            rules = self.rules[backend]
            start = rules.prefix + rules.separator
            if rules.prefix and exposed.startswith(start):
                return backend, exposed[len(start) :]
        return None

    def claimant(self, kind: Kind, key: str, visible: Collection[str]) -> str | None:
        """The owner of a listed resource or template, if it is one of these backends."""
        return next((owner for owner in self._listers.get((kind, key), ()) if owner in visible), None)

    def lists(self, uri: str, visible: Collection[str]) -> bool:
        """Whether one of these backends lists exactly this resource or template."""
        return any(self.claimant(kind, uri, visible) is not None for kind in (Kind.RESOURCES, Kind.TEMPLATES))

    def resource_owner(self, uri: str, visible: Sequence[str]) -> str | None:
        """The backend that lists the URI, has a template for it, or lists the template itself."""
        seen = frozenset(visible)
        if (owner := self.claimant(Kind.RESOURCES, uri, seen)) is not None:
            return owner
        text = Text(uri) if self._templates else None
        for pattern, template in self._templates:
            owner = self.claimant(Kind.TEMPLATES, template, seen)
            if owner is not None and (template == uri or (text is not None and pattern.matches(text))):
                return owner
        return visible[0] if len(visible) == 1 else None


def _items(listings: Mapping[tuple[str, Kind], Listing], backend: str, kind: Kind) -> list[dict[str, Any]]:
    listing = listings.get((backend, kind))
    return listing.items if listing is not None else []


class Hidden(Protocol):
    """Whether a pin hides a backend's tool (`pins.Pins.hidden`)."""

    def __call__(self, backend: str, tool: str, definition: Mapping[str, Any] | None = None) -> bool: ...


class View:
    """One client's view on one route (empty: `/mcp`)."""

    def __init__(
        self,
        client: str,
        settings: ClientSettings,
        route: str,
        backends: Sequence[str],
        directory: Callable[[], Directory],
        hidden: Hidden,
        *,
        restricted: bool,
    ) -> None:
        self.client = client
        self.route = route
        self.backends = tuple(backends)
        self.restricted = restricted
        """Whether another client could see something else, so that no answer may be shared."""
        self.search = settings.tools.mode is ToolMode.SEARCH
        self.pinned = Globs.of(settings.tools.pinned, ())
        self.lists: dict[Any, Any] = {}
        """Answers of lists; valid while the directory that they were made from is current."""
        self._directory = directory
        self._hidden = hidden
        self._globs = {
            Kind.TOOLS: Globs.of(settings.tools.allow, settings.tools.deny),
            Kind.PROMPTS: Globs.of(settings.prompts.allow, settings.prompts.deny),
            Kind.RESOURCES: Globs.of(settings.resources.allow, settings.resources.deny),
        }
        self._globs[Kind.TEMPLATES] = self._globs[Kind.RESOURCES]
        self._decided: dict[tuple[Directory, Kind, str, str], bool] = {}

    @property
    def directory(self) -> Directory:
        """The current directory."""
        return self._directory()

    def shows(self, kind: Kind, backend: str, key: str, item: Mapping[str, Any] | None = None) -> bool:
        """Whether the client may see, and so use, a backend's item with this name or URI, as `item` defines it."""
        if backend not in self.backends or (kind is Kind.TOOLS and self._hidden(backend, key, item)):
            return False
        directory = self._directory()
        question = (directory, kind, backend, key)
        known = self._decided.get(question)
        if known is None:
            known = self._decide(directory, kind, backend, key)
            if len(key) > _LONGEST_REMEMBERED:
                return known
            if len(self._decided) >= _REMEMBERED:
                self._decided.clear()
            self._decided[question] = known
        return known

    def _decide(self, directory: Directory, kind: Kind, backend: str, key: str) -> bool:
        rules = directory.rules.get(backend)
        if rules is None or not rules.passes(kind, key):
            return False
        if kind in (Kind.RESOURCES, Kind.TEMPLATES):
            return uris.passes(self._globs[kind], key)
        names = (directory.exposed(kind, backend, key), f"{backend}{rules.separator}{key}")
        return self._globs[kind].passes(*names)

    def find(self, kind: Kind, name: str) -> tuple[str, str] | None:
        """(backend, its own name) of what the client calls `name` on this route; None when it may not see that."""
        directory = self._directory()
        if self.route:
            rules = directory.rules.get(self.route)
            own = name if rules is None or kind is not Kind.TOOLS else rules.shape.original(name)
            found = None if own is None else (self.route, own)
        else:
            found = directory.owner(kind, name, self.backends)
        return found if found is not None and self.shows(kind, *found) else None

    def name_of(self, kind: Kind, backend: str, name: str) -> str:
        """What a backend's tool or prompt is called on this route."""
        directory = self._directory()
        return directory.rules[backend].shown(kind, name) if self.route else directory.exposed(kind, backend, name)

    def owner_of(self, uri: str) -> str | None:
        """The backend that a resource's URI, or a template, belongs to; None when the client may not see it."""
        directory = self._directory()
        if uris.flaw(uri) and not directory.lists(uri, self.backends):
            return None  # its server may read it in any way
        owner = directory.resource_owner(uri, self.backends)
        return owner if owner is not None and self.shows(Kind.RESOURCES, owner, uri) else None

    def narrows(self, kind: Kind, backend: str) -> bool:
        """Whether some of the backend's tools or prompts are hidden or fixed for this client. Then a name on no list must
        not be called: it may be another spelling of a hidden one."""
        globs, rules = self._globs[kind], self._directory().rules.get(backend)
        return rules is None or not rules.whole or globs.allow is not None or globs.deny is not None


def view_for(
    config: Config,
    client: str,
    route: str,
    directory: Callable[[], Directory],
    hidden: Hidden,
) -> View | None:
    """The view, or None where the client may not use the route."""
    visible = config.visible_servers(client)
    if route and route not in visible:
        return None
    settings = config.clients.get(client) or ClientSettings()
    return View(
        client,
        settings,
        route,
        (route,) if route else visible,
        directory,
        hidden,
        restricted=bool(config.clients) or config.gateway.auth is not None,
    )
