"""What a single connection needs from the egress process (`egress.service.server`)."""

from __future__ import annotations

import asyncio
from typing import Protocol

from egress.connection.backend import Backend, Source
from egress.connection.dialer import Dialer
from egress.policy.names import IP


class AnsweredNames(Protocol):
    """What a door's name server has answered to its backend."""

    named: dict[IP, str]
    """Names by the address that was made up for them (`protocol: tcp` rules)."""

    def told_of(self, name: str, address: IP) -> str | None:
        """The network on which that name was answered with that address; None when it was not."""

    def name_given(self, address: IP) -> str:
        """A name that was answered with that address; empty when none was."""

    def note_proxied(self, name: str) -> None:
        """A request for that name came through the proxy."""

    def handle(self, data: bytes, client: str, asked: str, reply: Reply) -> bool:
        """Answer one DNS message; False when it is no valid query."""

    def note_limit(self) -> None:
        """Count a query that came too fast."""


class Reply(Protocol):
    """Takes the answer to a DNS message."""

    def __call__(self, answer: bytes, /) -> None: ...


class ConnectionService(Protocol):
    """The egress, as a single connection sees it."""

    loop: asyncio.AbstractEventLoop
    tasks: asyncio.TaskGroup
    dialer: Dialer
    most: int
    """Client connections that may be open at once, over all backends."""

    def released(self, backend: Backend) -> None:
        """Give back the slot of a connection that has ended."""

    def names_of(self, source: Source) -> AnsweredNames | None:
        """The name server of that door; None in the standalone proxy."""
