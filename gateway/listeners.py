"""Where the gateway process itself listens: the CLI's socket, the admin listener and the MCP endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket

from gateway.connections import (
    ADMIN_CONNECTIONS,
    CONTROL_CONNECTIONS,
    Limits,
    client_connections,
    raise_descriptor_limit,
)
from gateway.control.base import Urls
from gateway.control.listen import ListenError, bind_tcp, bind_unix
from gateway.cuts import Cuts
from gateway.runtime.inventory.rundir import RunDirectory
from observability.events import Event
from registry.config import Config


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets, not served yet."""

    control: socket
    mcp: socket
    admin: socket

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports."""
        return tuple(port_of(one) for one in (self.mcp, self.admin))

    @property
    def urls(self) -> Urls:
        """Where people and clients find them."""
        return Urls(endpoint=f"http://{authority(self.mcp)}/mcp", admin=f"http://{authority(self.admin)}/")


def bind(
    config: Config, directory: RunDirectory, cleanup: contextlib.ExitStack, on_closed: Callable[[], None]
) -> Listeners:
    """Binds all three; `cleanup` closes them, then calls `on_closed`. Raises ListenError with the place in the file.

    `on_closed` is not called when another gateway of this project has the control socket: nothing is ours then.
    """
    control = bind_unix(directory.control_socket)
    cleanup.callback(on_closed)
    cleanup.callback(directory.control_socket.unlink, missing_ok=True)
    cleanup.callback(control.close)
    mcp = cleanup.enter_context(bind_setting(config, "listen", config.gateway.listen))
    admin = cleanup.enter_context(bind_setting(config, "admin", config.gateway.admin))
    return Listeners(control=control, mcp=mcp, admin=admin)


def bind_setting(config: Config, key: str, listen: str) -> socket:
    """The socket of one setting under `gateway`. Raises ListenError with the place in the file."""
    try:
        return bind_tcp(listen, f"gateway.{key}")
    except ListenError as error:
        raise ListenError(str(config.problem(("gateway", key), str(error)))) from None


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """How many connections each listener takes; those that are cut are reported."""

    control: Limits
    mcp: Limits
    admin: Limits


def limits(on_event: Callable[[Event], None]) -> ListenerLimits:
    """The limits that this process can afford: raises its limit of descriptors first."""
    clients = client_connections(raise_descriptor_limit())
    return ListenerLimits(
        control=Limits(CONTROL_CONNECTIONS, Cuts("control socket", on_event)),
        mcp=Limits(clients, Cuts("MCP endpoint", on_event)),
        admin=Limits(ADMIN_CONNECTIONS, Cuts("admin listener", on_event)),
    )


def port_of(listener: socket) -> int:
    """The port that a TCP listener has."""
    port: int = listener.getsockname()[1]
    return port


def authority(listener: socket) -> str:
    """`HOST:PORT` as a URL writes it."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
