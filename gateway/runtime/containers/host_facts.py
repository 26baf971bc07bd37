"""What the egress must know about the machine and this configuration, as the control protocol pushes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from gateway.runtime.inventory.host import IP
from registry.config import Config
from registry.model.references import REFERENCE


def ports_of_listen(*listens: str) -> list[int]:
    """The ports of `HOST:PORT` settings; 0 (any free one) is left out."""
    ports = {int(listen.rpartition(":")[2]) for listen in listens}
    return sorted(ports - {0})


def proxy_url(written: str | None, resolve: Callable[[Mapping[str, str]], Mapping[str, str]]) -> str | None:
    """The upstream proxy with its secrets filled in, escaped as a URL wants them. Raises ConfigError."""
    pair, at, host = (written or "").rpartition("@")
    if not at:
        return written

    def fill(match: re.Match[str]) -> str:
        return quote(resolve({"upstream_proxy": match[0]})["upstream_proxy"], safe="")

    return f"{REFERENCE.sub(fill, pair)}@{host}"


def host_facts(
    config: Config,
    *,
    host_addresses: Iterable[IP],
    self_addresses: Iterable[str],
    host_gateway: str,
    engine_networks: Iterable[str],
    gateway_ports: Iterable[int] = (),
    upstream_proxy: str | None = None,
    own_ports: Mapping[str, int] | None = None,
    own_proxies: Mapping[str, Mapping[str, object]] | None = None,
) -> Mapping[str, Any]:
    """The `surroundings` of a push. `gateway_ports` are ports found out at run time (a setting of 0);
    `upstream_proxy` has its secrets filled in; `own_ports`: where backends listen themselves; `own_proxies`: the
    proxies of those that have one of their own."""
    ports = {*ports_of_listen(config.gateway.listen, config.gateway.admin), *gateway_ports}
    return {
        "host_addresses": sorted(str(address) for address in host_addresses),
        "self_addresses": sorted(self_addresses),
        "host_gateway": host_gateway or None,
        "gateway_ports": sorted(ports),
        "engine_networks": sorted(engine_networks),
        "resolve": list(config.egress.resolve),
        "resolvers": list(config.egress.resolvers),
        "upstream_proxy": upstream_proxy,
        "no_proxy": list(config.egress.no_proxy),
        "own_ports": dict(own_ports or {}),
        **({"own_proxies": dict(own_proxies)} if own_proxies else {}),
    }
