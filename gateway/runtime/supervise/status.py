"""What `ps` shows of a backend. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from egress.policy.direct_ports import direct_ports
from gateway.runtime.engine.base import BackendStatus
from gateway.runtime.inventory.users import Users
from gateway.runtime.plan.plans import transport_of
from gateway.runtime.supervise.keeper import Slot
from observability.events import BackendState
from registry.model.server import Server


def status_of(
    name: str, server: Server, slots: Sequence[Slot], *, no_route: bool, shares: Sequence[str] = ()
) -> BackendStatus:
    """One server and the slots of its instances; `no_route`: the engine refuses the door its route; `shares`: what it
    shares its user with, in sentences."""
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
        warnings=(*warnings(server), *shares),
        direct_supported=not no_route,
    )


def warnings(server: Server) -> tuple[str, ...]:
    """What a person should know of a backend's wall; that it has none comes first."""
    if server.remote:
        return ("runs elsewhere: not isolated, its connections are not observed",)
    if not server.network.isolated:
        return ("not isolated: it reaches everything, and its connections are not observed",)
    if server.port is not None and server.port in direct_ports(server.network.policy):
        return (
            f"listens on port {server.port} itself: what it sends straight to that port of any host stays inside it, unseen",
        )
    return ()


def shared_users(users: Users, slots: Iterable[Slot]) -> dict[str, list[str]]:
    """Of each running backend that shares its user, with whom, in sentences."""
    running: dict[str, set[int]] = {}
    chosen = set()
    for slot in slots:
        if slot.pair is not None and slot.pair.uid is not None:
            running.setdefault(slot.backend, set()).add(slot.pair.uid)
            if slot.pair.wanted.source.user:
                chosen.add(slot.backend)
    return users.sharing(running, chosen)
