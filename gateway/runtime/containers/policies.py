"""The policies at the egress: which ones should hold, and one push whenever they, or what they are read with, changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from egress.net.interfaces import interface_addresses
from gateway.runtime.containers.egress_keeper import EgressKeeper
from gateway.runtime.containers.host_facts import host_facts, proxy_url
from gateway.runtime.inventory.context import RuntimeContext
from gateway.runtime.sandbox.secrets import Secrets
from registry.config import Config
from registry.model.server import Server

Push = tuple[Mapping[str, Mapping[str, object]], Mapping[str, object]]
"""The policy of each backend, and the facts about this machine and configuration."""


class Policies:
    """The last push to the egress, and what the next one should be."""

    def __init__(
        self,
        context: RuntimeContext,
        egress: EgressKeeper,
        secrets: Secrets,
        gateway_ports: Callable[[], Iterable[int]],
    ) -> None:
        """`gateway_ports` are the ports that the gateway really listens on."""
        self.context = context
        self.egress = egress
        self.secrets = secrets
        self.gateway_ports = gateway_ports
        self.extra: dict[str, Mapping[str, object]] = {}
        """Policies of containers of ours that stand behind a door, by the name they have there."""
        self.own_proxies: dict[str, Mapping[str, object]] = {}
        """Proxies of their own, by that name; the configuration's `upstream_proxy` comes before them."""
        self.pushed: Push | None = None
        self.pushing = asyncio.Lock()
        """An older push must not end after a newer one."""

    async def push(self, config: Config) -> None:
        """Pushes the policies and facts if they differ from the last ones. Raises EngineError, PolicyRejected, OSError."""
        async with self.pushing:
            wanted = await self.wanted(config)
            if wanted != self.pushed:
                await self.context.link.push_policies(*wanted)
                self.pushed = wanted

    async def wanted(self, config: Config) -> Push:
        """What should hold now."""
        networks = await self.context.engine.networks()
        network = self.egress.network
        servers = local_servers(config)
        policies: dict[str, Mapping[str, object]] = {
            name: server.network.block for name, server in servers.items() if server.isolated
        }
        facts = host_facts(
            config,
            host_addresses=await asyncio.to_thread(interface_addresses),
            self_addresses=self.egress.addresses,
            host_gateway=network.gateway if network else "",
            engine_networks=[subnet for net in networks for subnet in net.subnets],
            gateway_ports=self.gateway_ports(),
            own_ports={name: server.port for name, server in servers.items() if server.port},
            own_proxies={} if config.egress.upstream_proxy else dict(self.own_proxies),
            upstream_proxy=await asyncio.to_thread(proxy_url, config.egress.upstream_proxy, self.secrets.resolve),
        )
        return {**policies, **self.extra}, facts


def local_servers(config: Config) -> dict[str, Server]:
    """The servers that run here."""
    return {name: server for name, server in config.servers.items() if not server.remote and not server.disabled}


def joined_networks(config: Config) -> set[str]:
    """The networks that isolated backends reach through a connector."""
    servers = local_servers(config).values()
    return {network for server in servers if server.isolated for network in server.network.join}
