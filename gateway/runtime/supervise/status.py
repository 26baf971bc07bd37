"""What `ps` shows of a backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from egress.policy.direct_ports import direct_ports
from gateway.runtime.sandbox.base import transport_of
from gateway.runtime.supervise.keeper import InstanceKeeper
from observability.events import BackendState
from registry.model.errors import ConfigError
from registry.model.fields import Start
from registry.model.server import Server
from registry.model.sources import ImageSource, PackageSource, ProjectSource
from registry.model.spec import plan_source

STARTS_LATER: Final = "starts at first call"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """One backend as `ps` shows it."""

    name: str
    state: BackendState
    detail: str
    transport: str
    isolated: bool
    image: str
    """The image or the package, as its entry names it; the URL of one that runs elsewhere."""
    containers: tuple[str, ...]
    restarts: int
    since: float
    """Unix time of the last change of state."""
    ended: float = 0.0
    """Unix time at which it last ended by itself; 0 when it never did."""
    source: str = ""
    """What it is made from: `pypi`, `npm`, `image` or `remote`."""
    package: str = ""
    version: str = ""
    """Of a package: the one that is installed in its image; before there is one, as the entry names it (empty: any)."""
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
    version = next((keeper.version for keeper in keepers if keeper.version), "")
    instances = [keeper.instance for keeper in keepers if keeper.instance is not None]
    state = BackendState.REMOTE if server.remote else main.shown_state if main else BackendState.STOPPED
    return BackendStatus(
        name=name,
        state=state,
        detail=main.trouble if main else idle(server),
        transport=transport_of(server),
        isolated=server.isolated,
        **{**origin(server), **({"version": version} if version else {})},
        containers=tuple(identity[:12] for instance in instances for identity in instance.containers),
        restarts=sum(keeper.restarts for keeper in keepers),
        since=main.since if main else 0.0,
        warnings=(*warnings(server), *shares),
        ended=main.ended if main else 0.0,
        direct_supported=sees_direct,
    )


def idle(server: Server) -> str:
    """Why nothing of a server runs, where that is as its entry wants it."""
    if server.disabled:
        return "disabled"
    return STARTS_LATER if server.start is Start.LAZY and not server.remote else ""


def origin(server: Server) -> dict[str, str]:
    """What a server is made from: `image`, `source`, `package`, `version` of a `BackendStatus`."""
    try:
        source = plan_source(server)
    except (ConfigError, ValueError):
        return {"image": server.image or server.command or server.url or ""}
    if isinstance(source, PackageSource):
        kind = "pypi" if source.kind == "uvx" else "npm"
        return {"image": source.requirement, "source": kind, "package": source.package, "version": source.version}
    if isinstance(source, ProjectSource):
        return {"image": f"{source.folder} ({source.name})", "source": "project"}
    if isinstance(source, ImageSource):
        return {"image": source.image, "source": "image"}
    return {"image": server.url or server.command or "", "source": "remote" if server.remote else ""}


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
