"""Which words may become metric labels.

A label value is stored for ever by the monitoring system, so none may be text that a client, a backend or a host outside
chose. Each is looked up in what the configuration (or this file) names; anything else becomes `_other`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from observability.semconv import OTHER, PORT_OTHER

METHODS: Final = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "tools/call",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "subscriptions/listen",
        "completion/complete",
        "logging/setLevel",
        "roots/list",
        "sampling/createMessage",
        "elicitation/create",
        "tasks/list",
        "tasks/get",
        "tasks/result",
        "tasks/cancel",
        "tasks/update",
        "notifications/initialized",
        "notifications/cancelled",
        "notifications/progress",
        "notifications/message",
        "notifications/roots/list_changed",
    }
)
PROTOCOL_VERSIONS: Final = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"})
TRANSPORTS: Final = frozenset({"tcp", "pipe"})
SOURCES: Final = ("egress", "gateway", "hub", "history", "log")
"""Where events can be lost: in the egress's ring, on the way, by a slow reader, by the writers of history and log."""
_JSONRPC_CODES: Final = frozenset(
    {"-32700", "-32600", "-32601", "-32602", "-32603", "-32000", "-32001", "-32002", "-32003", "-32004", "-32042"}
)
_MAX_ERROR_WORDS: Final = 64
_MAX_NAME: Final = 128
"""Characters of a tool's name (MCP 2025-11-25, tools)."""
_MAX_PORTS: Final = 32
"""Of one backend: a policy may name `1-65535`."""


class Vocabulary:
    """The names that the configuration and the backends' tool lists give us just now."""

    def __init__(self) -> None:
        self.backends: frozenset[str] = frozenset()
        self.clients: frozenset[str] = frozenset()
        self.rules: Mapping[str, frozenset[str]] = {}
        self.ports: Mapping[str, frozenset[int]] = {}
        self.tools: dict[str, frozenset[str]] = {}
        self._error_words: set[str] = set()
        self._ports_seen: dict[str, set[int]] = {}

    def backend(self, name: str) -> str:
        return name if name in self.backends or not name else OTHER

    def client(self, name: str) -> str:
        return name if name in self.clients or name in {"", "anonymous"} else OTHER

    def tool(self, backend: str, name: str) -> str:
        return name if not name or name in self.tools.get(backend, ()) else OTHER

    def rule(self, backend: str, text: str) -> str:
        return text if not text or text in self.rules.get(backend, ()) else OTHER

    def port(self, backend: str, number: int | None) -> str:
        """A port that the backend's policy names (the first 32 that are used), else `other`."""
        ports = self.ports.get(backend)
        if number is None or (ports is not None and number not in ports):
            return PORT_OTHER
        seen = self._ports_seen.setdefault(self.backend(backend), set())
        if number not in seen:
            if len(seen) >= _MAX_PORTS:
                return PORT_OTHER
            seen.add(number)
        return str(number)

    def few_ports(self, backend: str) -> list[str]:
        """The labels to expect of a backend's ports: all that are named, when these are few, and `other`."""
        ports = sorted(self.ports.get(backend, ()))
        return [PORT_OTHER, *map(str, ports)] if len(ports) <= _MAX_PORTS else [PORT_OTHER]

    def error(self, word: str) -> str:
        """An `error.type`: codes only as the specifications name them, words (ours) up to a bound."""
        if not word or word in _JSONRPC_CODES or word in self._error_words:
            return word
        if word.isidentifier() and len(word) <= 40 and len(self._error_words) < _MAX_ERROR_WORDS:
            self._error_words.add(word)
            return word
        return OTHER


def one_of(word: str, allowed: Collection[str]) -> str:
    """The word where it is allowed or empty, else `_other`."""
    return word if word in allowed or not word else OTHER


def fit_for_labels(names: Collection[str]) -> frozenset[str]:
    """The names that a label can carry: a backend chose them, so they may be endless or not even be text."""
    return frozenset(name for name in names if name.isprintable() and len(name) <= _MAX_NAME)
