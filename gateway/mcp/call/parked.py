"""State that a 2026-07-28 client carries for us between its attempts: sealed, bound to its principal, and bounded.

Two things travel as `requestState`: the number of a parked call (a legacy backend asked something during the call, and
waits), and a modern backend's own state, wrapped so that only the principal that got it can send it back.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.mcp.call.inflight import InFlightCall
from gateway.mcp.call.messages import Call
from gateway.mcp.call.principal import Principal
from gateway.mcp.wire.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError

PARK_S: Final = 600.0
MAX_PARKED: Final = 512
MAX_PER_PRINCIPAL: Final = 64
_STATE_S: Final = 24 * 3600.0
_NONCE: Final = 12
_PREFIX: Final = "stockade1."


class Seal:
    """Seals values with a key that lives as long as this process (AES-256-GCM)."""

    def __init__(self, key: bytes | None = None) -> None:
        self._cipher = AESGCM(key or AESGCM.generate_key(256))

    def close(self, value: dict[str, Any], bound_to: str) -> str:
        """The value as an opaque token that opens only together with `bound_to`."""
        nonce = os.urandom(_NONCE)
        text = json.dumps({**value, "t": time.time()}).encode()
        sealed = nonce + self._cipher.encrypt(nonce, text, bound_to.encode())
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, token: str, bound_to: str) -> dict[str, Any]:
        """The value. Raises RpcError (-32602) for a token that is not ours, expired, or another principal's."""
        try:
            text = token.removeprefix(_PREFIX)
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            plain = self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], bound_to.encode())
            value: dict[str, Any] = json.loads(plain)
        except (InvalidTag, ValueError, binascii.Error):
            raise RpcError(INVALID_PARAMS, "Invalid requestState") from None
        if not token.startswith(_PREFIX) or time.time() - float(value["t"]) > _STATE_S:
            raise RpcError(INVALID_PARAMS, "Invalid or expired requestState")
        return value


def binding(principal: Principal, backend: str, method: str, key: str) -> str:
    """What a state is bound to: the principal and the request."""
    return "\0".join((principal.client, principal.subject, backend, method, key))


@dataclass(eq=False, slots=True)
class Parked:
    """A call that waits for its client to call again."""

    call: Call
    record: InFlightCall
    principal: Principal
    timer: asyncio.TimerHandle


class ParkingLot:
    """The parked calls, each for `PARK_S` at most."""

    def __init__(self, on_expired: Callable[[InFlightCall], None]) -> None:
        self._parked: dict[str, Parked] = {}
        self._on_expired = on_expired

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, call: Call, record: InFlightCall, principal: Principal) -> str:
        """Park the call; returns its number. Raises RpcError when there is no room."""
        mine = sum(parked.principal == principal for parked in self._parked.values())
        if len(self._parked) >= MAX_PARKED or mine >= MAX_PER_PRINCIPAL:
            raise RpcError(INTERNAL_ERROR, "Too many calls wait for an answer of their client")
        number = os.urandom(12).hex()
        timer = asyncio.get_running_loop().call_later(PARK_S, self._expire, number)
        self._parked[number] = Parked(call, record, principal, timer)
        return number

    def resume(self, number: str, principal: Principal) -> Parked:
        """Take the call out. Raises RpcError when it is gone, or another principal's."""
        parked = self._parked.get(number)
        if parked is None or parked.principal != principal:
            raise RpcError(
                INVALID_PARAMS, "The call that this requestState belongs to is over; call again without it"
            )
        del self._parked[number]
        parked.timer.cancel()
        return parked

    def _expire(self, number: str) -> None:
        parked = self._parked.pop(number, None)
        if parked is not None:
            parked.call.abandon("the client did not answer in time")
            self._on_expired(parked.record)

    def clear(self) -> None:
        """Give up all parked calls."""
        for number in list(self._parked):
            self._parked[number].timer.cancel()
            self._expire(number)
