"""What `ps` shows of a backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from egress.backend import direct_ports
from observability.events import BackendState
from registry.config import Server

from .base import BackendStatus
from .plans import transport_of
from .slot import Slot


def status_of(name: str, server: Server, slots: Sequence[Slot], *, no_route: bool) -> BackendStatus:
    """One server and the slots of its instances; `no_route`: the engine refuses the door its route."""
    main = next((slot for slot in slots if slot.instance == name), slots[0] if slots else None)
    pairs = [slot.pair for slot in slots if slot.pair is not None]
    state = BackendState.REMOTE if server.remote else main.state if main else BackendState.STOPPED
    return BackendStatus(
        name=name,
        state=state,
        detail=main.trouble if main else "disabled" if server.disabled else "",
        transport=transport_of(server),
        isolated=server.isolated,
        image=server.image or " ".join([server.command or server.url or "", *server.args[:1]]),
        containers=tuple(c[:12] for pair in pairs for c in pair.containers),
        restarts=sum(slot.restarts for slot in slots),
        since=main.since if main else 0.0,
        warnings=warnings(server),
        direct_supported=not no_route,
    )


def warnings(server: Server) -> tuple[str, ...]:
    """What a person should know of a backend's wall."""
    if server.remote:
        return ("runs elsewhere: not isolated, its connections are not observed",)
    if not server.network.isolated:
        return ("not isolated: it reaches everything, and its connections are not observed",)
    if server.port is not None and server.port in direct_ports(server.network.policy):
        return (
            f"listens on port {server.port} itself: what it sends straight to that port of any host stays inside it, unseen",
        )
    return ()
