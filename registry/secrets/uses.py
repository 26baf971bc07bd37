"""Which parts of a configuration name secrets."""

from __future__ import annotations

from typing import Any

from registry.config import Config
from registry.file.document import walk
from registry.model.references import FILLED, references
from registry.model.server import Server


def with_references(server: Server) -> dict[str, Any]:
    """The parts of an entry that may hold references."""
    return server.model_dump(mode="json", include=set(FILLED))


def names_of(config: Config) -> dict[str, list[str]]:
    """Each secret that servers' entries or the egress name, with the servers that do (none for the egress), by name."""
    found: dict[str, list[str]] = {}
    for server, entry in config.servers.items():
        for _, text in walk(with_references(entry)):
            for name in secrets_in(text):
                users = found.setdefault(name, [])
                if server not in users:
                    users.append(server)
    for name in secrets_in(config.egress.upstream_proxy or ""):
        found.setdefault(name, [])
    return dict(sorted(found.items()))


def secrets_in(text: str) -> list[str]:
    """The names in the text's `${secret:NAME}`."""
    return [name for kind, _, name in (one.partition(":") for one in references(text)) if kind == "secret"]


def needed_by(config: Config, name: str) -> list[str]:
    """The servers whose entries name the secret."""
    return names_of(config).get(name, [])
