"""What `ps` shows of a backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from egress.policy.direct_ports import direct_ports
from gateway.runtime.sandbox.base import transport_of
from gateway.runtime.supervise.keeper import InstanceKeeper
from observability.events import BackendState
from registry.model.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """One backend as `ps` shows it."""

    name: str
    state: BackendState
    detail: str
    transport: str
    isolated: bool
    image: str
    containers: tuple[str, ...]
    restarts: int
    since: float
    """Unix time of the last change of state."""
    warnings: tuple[str, ...] = ()
    direct_supported: bool = True
    """False where connections that ignore the proxy are refused without being recorded."""


def status_of(
    name: str,
    server: Server,
    keepers: Sequence[InstanceKeeper],
    *,
    sees_direct: bool,
    shares: Sequence[str] = (),
) -> BackendStatus:
    """One server and the keepers of its instances; `shares`: what it shares its user with, in sentences."""
    main = next((keeper for keeper in keepers if keeper.id == name), keepers[0] if keepers else None)
    instances = [keeper.instance for keeper in keepers if keeper.instance is not None]
    state = BackendState.REMOTE if server.remote else main.state if main else BackendState.STOPPED
    return BackendStatus(
        name=name,
        state=state,
        detail=main.trouble if main else "disabled" if server.disabled else "",
        transport=transport_of(server),
        isolated=server.isolated,
        image=server.image or " ".join([server.command or server.url or "", *server.args[:1]]),
        containers=tuple(identity[:12] for instance in instances for identity in instance.containers),
        restarts=sum(keeper.restarts for keeper in keepers),
        since=main.since if main else 0.0,
        warnings=(*warnings(server), *shares),
        direct_supported=sees_direct,
    )


def warnings(server: Server) -> tuple[str, ...]:
    """What a person should know about a backend's isolation; that it has none comes first."""
    if server.remote:
        return ("runs elsewhere: not isolated, its connections are not observed",)
    if not server.network.isolated:
        return ("not isolated: it reaches everything, and its connections are not observed",)
    if server.port is not None and server.port in direct_ports(server.network.policy):
        return (
            f"listens on port {server.port} itself: what it sends straight to that port of any host stays inside it, unseen",
        )
    return ()
