"""At which level each legacy connection of a backend logs."""

from __future__ import annotations

import logging
import weakref

from gateway.mcp.call.caller import LEVELS
from gateway.mcp.call.messages import Peer
from gateway.mcp.upstream.catalog import LIST_TIMEOUT_S
from gateway.mcp.upstream.handshake import ask
from gateway.mcp.wire.errors import PeerClosed, RpcError

logger = logging.getLogger(__name__)


class LogLevels:
    """The levels that the connections of one backend were set to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._levels: weakref.WeakKeyDictionary[Peer, str] = weakref.WeakKeyDictionary()

    async def set(self, peer: Peer, level: str) -> None:
        """Have a legacy connection log at this level; a shared one only ever logs more."""
        if "logging" not in peer.about.capabilities or not self._differs(peer, level):
            return
        self._levels[peer] = level
        try:
            await ask(peer, self._name, "logging/setLevel", {"level": level}, LIST_TIMEOUT_S)
        except (RpcError, PeerClosed) as error:
            logger.info("server %s: logging/setLevel failed: %s", self._name, error)

    def _differs(self, peer: Peer, level: str) -> bool:
        known = self._levels.get(peer)
        return known is None or (LEVELS.index(level) < LEVELS.index(known) if not peer.session else level != known)
