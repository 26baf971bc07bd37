"""Access to the admin listener: one admin token, the sessions made from it, and a limit on guesses.

The admin token is 256 random bits, shown once and stored as a SHA-256 digest (a slow hash protects weak secrets; this
is not one). It carries a prefix of its own, so a token of an MCP client is refused whatever its digest is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.disk import naming

ADMIN_FILE = "admin.json"
"""In a project's persistent directory, since the admin token outlives a reboot."""
PREFIX = "stockade_admin_"
SESSION_S = 12 * 3600.0
MAX_SESSIONS = 64
MAX_FAILURES = 8
FAILURE_WINDOW_S = 60.0
MAX_PEERS = 256


def digest(token: str) -> str:
    """SHA-256 of a token, as hex."""
    return hashlib.sha256(token.encode()).hexdigest()


class AdminToken:
    """The digest of the admin token, in a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stored(self) -> str:
        """The digest, or `""` when no token was made yet (then nothing matches)."""
        try:
            found = json.loads(self.path.read_text())["token_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return found if isinstance(found, str) else ""

    def renew(self) -> str:
        """A new token in place of the old; every session made from the old one ends."""
        token = PREFIX + secrets.token_urlsafe(32)
        fresh = self.path.with_suffix(".tmp")
        with naming(self.path):
            fresh.unlink(missing_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps({"token_sha256": digest(token), "created": int(time.time())}))
            fresh.replace(self.path)
        return token

    def matches(self, token: str) -> bool:
        """Constant-time comparison with the stored digest."""
        stored = self.stored()
        return bool(stored) and token.startswith(PREFIX) and hmac.compare_digest(digest(token), stored)


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that signed in with the token."""

    expires: float
    token_sha256: str


class Sessions:
    """Sessions in memory, by the digest of their cookie. The oldest goes when there are too many."""

    def __init__(self, token: AdminToken, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def open(self) -> str:
        """The cookie value of a new session."""
        cookie = secrets.token_urlsafe(32)
        self._sessions[digest(cookie)] = Session(self._clock() + SESSION_S, self._token.stored())
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie

    def valid(self, cookie: str) -> bool:
        """True until the session expires, is closed, or the admin token changes."""
        key = digest(cookie)
        session = self._sessions.get(key)
        if session is None:
            return False
        if session.expires <= self._clock() or session.token_sha256 != self._token.stored():
            del self._sessions[key]
            return False
        return True

    def close(self, cookie: str) -> None:
        """End a session; unknown ones are ignored."""
        self._sessions.pop(digest(cookie), None)


class Brake:
    """Counts wrong tokens by peer; after `MAX_FAILURES` within a minute that peer has to wait."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, peer: str) -> float:
        """How many seconds that peer has to wait before its next try; 0 when it may try now."""
        times = self._recent(peer)
        return times[0] + FAILURE_WINDOW_S - self._clock() if len(times) >= MAX_FAILURES else 0.0

    def failed(self, peer: str) -> None:
        """Count one wrong token."""
        self._failures.setdefault(peer, deque(maxlen=MAX_FAILURES)).append(self._clock())
        self._failures.move_to_end(peer)
        while len(self._failures) > MAX_PEERS:
            self._failures.popitem(last=False)

    def _recent(self, peer: str) -> deque[float]:
        times = self._failures.get(peer, deque())
        while times and times[0] <= self._clock() - FAILURE_WINDOW_S:
            times.popleft()
        return times
