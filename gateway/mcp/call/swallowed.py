"""Which denials a result has to name although its tool reported no error.

A server that swallows an error makes its model believe a falsehood: "no results" where nothing was asked. A line on every
result would nag, for much is blocked that no answer depends on. So a line is added once for each host and session, where
the call's own connection was denied, and never for a host that the server is refused outside of calls too (telemetry).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias

from gateway.mcp.call.background import Background
from gateway.mcp.call.caller import Caller
from observability.events import Certainty, EgressEvent

REMEMBERED: Final = 4096
STATELESS_S: Final = 600.0
"""A client of the new protocol has no session: it is told again after that time."""
Denials: TypeAlias = Sequence[tuple[EgressEvent, Certainty]]


class Swallowed:
    """Remembers which hosts each session knows to be refused."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def news(self, caller: Caller, denials: Denials) -> Denials:
        """The denials that this caller does not know of yet; from now on it does."""
        return [(event, sure) for event, sure in denials if self._is_news(caller, event, sure)]

    def _is_news(self, caller: Caller, event: EgressEvent, sure: Certainty) -> bool:
        host = event.host or event.destination
        if sure is not Certainty.CERTAIN or not host or self._background.asks(event.backend, host):
            return False
        return self.tell(caller, event.backend, host)

    def tell(self, caller: Caller, backend: str, host: str) -> bool:
        """Note that the caller is told; False when it was before."""
        session, now = caller.session, time.monotonic()
        key = (session.id if session is not None else f"client {caller.principal.client}", backend, host)
        before = self._told.get(key)
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        return before is None or (session is None and now - before >= STATELESS_S)
