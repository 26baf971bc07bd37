"""Which of a pipe's processes a legacy session lives in, with `sessions: auto`.

A session stays in the process where its first call went: what that call left behind (an open page, a cursor) is there and
nowhere else. So the choice is made once, from what the server and the client are known to do by then:

* A server that sends messages of its own (it declares logging or subscriptions) has a process for each session.
* A server that was seen to ask (roots, sampling, elicitation) has one for each session whose client can be asked, greeted
  with what that client can do. The others share the *quiet* one, whose server is told that no client can be asked.
* Of any other server all sessions share one process. If it asks later, the sessions that live there stay.

Clients of the newer revision have no session; to a server of the older one, their principal takes that role.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from registry.model.fields import Sessions, Transport
from registry.model.server import Server

if TYPE_CHECKING:
    from gateway.mcp.call.caller import Caller

QUIET: Final = "quiet"
"""The owner of the shared connection whose server is told that its clients cannot be asked anything."""
_MAX_HOMES: Final = 64 * 1024


class Homes:
    """The homes of one backend's legacy clients."""

    def __init__(self, server: Server) -> None:
        self.asks = False
        """It sent a request of its own accord, in this run or an earlier one."""
        self.tells = False
        """It declares messages that name no call."""
        self._sessions = server.sessions
        self._stdio = server.transport is Transport.STDIO
        self._chosen: dict[str, str] = {}
        """The owner of the connection that a client's first call went to, by session or principal."""

    def owner(self, caller: Caller) -> str:
        """The owner of the connection for a legacy caller's requests; empty for the one that is shared."""
        if self._sessions is Sessions.SHARED:
            return ""
        if self._sessions is Sessions.AUTO and self._stdio:
            chosen = self._chosen.get(_client(caller))
            if chosen is not None:
                return chosen
            if not (self.tells or self.asks):
                return ""
            if not self.tells and not caller.askable:
                return QUIET
        if caller.session is not None:
            return caller.session.id
        return digest(caller) if self._stdio else ""  # on HTTP each call has its own stream

    def stay(self, caller: Caller, owner: str) -> None:
        """A call of this client goes to that owner's connection: so do all later ones."""
        if not self.knows(caller):
            if len(self._chosen) >= _MAX_HOMES:
                del self._chosen[next(iter(self._chosen))]
            self._chosen[_client(caller)] = owner

    def knows(self, caller: Caller) -> bool:
        """Whether it was chosen where the client lives, or there is no choice."""
        return not self._stdio or self._sessions is Sessions.SHARED or _client(caller) in self._chosen

    def is_inhabited(self, owner: str) -> bool:
        """Whether a client lives there."""
        return owner in self._chosen.values()

    def is_used(self, session: str) -> bool:
        """Whether a call of the session went to its own process."""
        return self._chosen.get(session) == session

    def lost(self, owner: str) -> None:
        """That process is gone, and with it what it kept: its clients choose again."""
        self._chosen = {client: home for client, home in self._chosen.items() if home != owner}

    def forget(self, session: str) -> None:
        """The session, or its own process, is gone."""
        self._chosen.pop(session, None)


def _client(caller: Caller) -> str:
    """Whose state a call may leave behind. Programs of one principal that cannot be asked live apart from those that can."""
    if caller.session is not None:
        return caller.session.id
    return f"{caller.principal.key}{'?' if caller.askable else ''}"


def digest(caller: Caller) -> str:
    """The owner of a connection that belongs to a principal."""
    return "p" + hashlib.sha256(caller.principal.key.encode()).hexdigest()[:12]
