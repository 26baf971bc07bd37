"""The caller: the principal behind a request, and the way back to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.mcp.call.answer import Answer, Form
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.sessions import Session
from gateway.mcp.view.views import View
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INTERNAL_ERROR, RpcError

ANSWER_S: Final = 600.0
"""How long a client may take to answer a question."""
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_ASKED_FOR: Final = frozenset({"sampling", "elicitation", "roots"})


@dataclass(eq=False, slots=True)
class Caller:
    """One client request being served."""

    principal: Principal
    view: View
    modern: bool
    version: str
    answer: Answer
    request_id: Any
    session: Session | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    client: Mapping[str, Any] | None = None
    """clientInfo: a display hint."""
    level: str | None = None
    """The lowest level of log messages that the client wants; None: no log messages."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def notify(self, method: str, params: Mapping[str, Any]) -> bool:
        """Send a notification on this request's stream."""
        return self.answer.push(codec.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    def wants(self, level: Any) -> bool:
        """Whether a log message of this level is wanted."""
        if self.level is None:
            return False
        return level not in LEVELS or LEVELS.index(level) >= LEVELS.index(self.level)

    def has_extension(self, name: str) -> bool:
        """Whether the client declared an extension of the protocol."""
        extensions = self.capabilities.get("extensions")
        return isinstance(extensions, Mapping) and name in extensions

    @property
    def askable(self) -> bool:
        """Whether the client declared anything that a server may ask it for."""
        return not _ASKED_FOR.isdisjoint(self.capabilities)

    def can(self, method: str, params: Mapping[str, Any]) -> bool:
        """Whether the client declared the capability that a request to it needs."""
        match method:
            case "sampling/createMessage":
                return "sampling" in self.capabilities
            case "roots/list":
                return "roots" in self.capabilities
            case "elicitation/create":
                declared = self.capabilities.get("elicitation")
                if not isinstance(declared, Mapping):
                    return False
                return params.get("mode", "form") == "form" or "url" in declared
            case _:
                return False

    def ask(self, method: str, params: Mapping[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Put a request to a legacy client on this request's stream, or on its session's where this one has no stream; the
        future brings its result or RpcError."""
        if self.session is None:
            raise RpcError(INTERNAL_ERROR, "this client cannot be asked")
        listening = self.session.stream if self.answer.form is Form.JSON else None
        return self.session.ask(method, params, listening or self.answer)


def required_capability(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The capability that a client must declare for this request."""
    match method:
        case "sampling/createMessage":
            return {"sampling": {}}
        case "roots/list":
            return {"roots": {}}
        case _:
            return {"elicitation": {str(params.get("mode", "form")): {}}}
