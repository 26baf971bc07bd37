"""Greet a backend: find out which generation of the protocol it speaks, and what it declares.

A modern greeting is `server/discover`, a legacy one `initialize`. On a pipe the first request that succeeds locks
the process to its generation, so the first caller's generation is tried first, and the other one when that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.mcp.call.messages import (
    SHARED_CAPABILITIES,
    Call,
    Greeting,
    Peer,
    about_legacy,
    about_modern,
    envelope,
)
from gateway.mcp.call.outcome import CallFailed, ErrorKind
from gateway.mcp.upstream.greeting import sound
from gateway.mcp.upstream.http_peer import HttpPeer
from gateway.mcp.upstream.stdio import StdioPeer
from gateway.mcp.wire.errors import METHOD_NOT_FOUND, UNSUPPORTED_VERSION, RpcError, clipped

US: Final[Mapping[str, Any]] = {"name": "stockade", "version": "0.1.0"}
_PROBE_S: Final = 20.0


class WrongEra(Exception):
    """Raised when a backend does not speak the generation it was greeted in."""


async def ask(peer: Peer, backend: str, method: str, params: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """A request of our own. Raises RpcError and PeerClosed."""
    call = Call(backend, method, params, None, timeout_s)
    await send(peer, call)
    return await call.result()


async def send(peer: Peer, call: Call) -> None:
    """Send a call of our own; one that cannot be sent has ended. Raises PeerClosed."""
    try:
        await peer.send(call)
    except BaseException as error:
        call.fail(str(error) or type(error).__name__)
        raise


async def discover(peer: StdioPeer | HttpPeer, backend: str, timeout_s: float) -> None:
    """Greet in the modern way. Raises WrongEra, PeerClosed; RpcError when the backend does not answer at all."""
    peer.modern = True
    try:
        params = {"_meta": envelope({}, US)}
        result = await ask(peer, backend, "server/discover", params, min(timeout_s, _PROBE_S))
    except RpcError as error:
        raise WrongEra(str(error)) from error
    about = about_modern(sound(result))
    if about is None:
        named = clipped(str(result.get("supportedVersions")), 200)
        raise WrongEra(f"it names no version that this gateway speaks: {named}")
    peer.about = about


async def initialize(peer: StdioPeer | HttpPeer, backend: str, greeting: Greeting | None, timeout_s: float) -> None:
    """Greet in the legacy way. Raises WrongEra, PeerClosed, RpcError."""
    peer.modern = False
    greeting = greeting or Greeting(capabilities=SHARED_CAPABILITIES, client=US)
    params = {
        "protocolVersion": greeting.version,
        "capabilities": dict(greeting.capabilities),
        "clientInfo": dict(greeting.client or US),
    }
    call = Call(backend, "initialize", params, None, timeout_s)
    await send(peer, call)
    try:
        result = await call.result()
    except RpcError as error:
        if error.code in (UNSUPPORTED_VERSION, METHOD_NOT_FOUND):
            raise WrongEra(str(error)) from error
        raise
    peer.about = about_legacy(sound(result))
    if isinstance(peer, HttpPeer):
        peer.adopt(peer.about.version)
    await peer.notify("notifications/initialized", None)


async def greet(
    peer: StdioPeer | HttpPeer,
    backend: str,
    *,
    modern_first: bool,
    greeting: Greeting | None,
    timeout_s: float,
) -> None:
    """Greet in one generation, else in the other. Raises PeerClosed or RpcError."""
    first, second = (True, False) if modern_first else (False, True)
    try:
        await _greet(peer, backend, first, greeting, timeout_s)
        return
    except WrongEra as error:
        refusal = error
    except RpcError as error:
        timed_out = isinstance(error, CallFailed) and error.failure.kind is ErrorKind.TIMEOUT
        if timed_out and not modern_first:
            raise
        refusal = WrongEra(str(error))
    try:
        try:
            await _greet(peer, backend, second, greeting, timeout_s)
        except WrongEra:
            if not modern_first:
                raise
            # A slow starter may have locked itself to the late `server/discover`: then it answers the next one.
            await _greet(peer, backend, True, greeting, timeout_s)
    except WrongEra as error:
        raise RpcError(-32603, f"it speaks no MCP revision this gateway knows ({refusal}; {error})") from error


async def _greet(
    peer: StdioPeer | HttpPeer, backend: str, modern: bool, greeting: Greeting | None, timeout_s: float
) -> None:
    if modern:
        await discover(peer, backend, timeout_s)
    else:
        await initialize(peer, backend, greeting, timeout_s)
