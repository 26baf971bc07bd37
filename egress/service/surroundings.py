"""What the gateway says about the world around the egress."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from egress.policy.decide import Surroundings
from egress.policy.names import IP, canonical_host
from egress.policy.parent_proxy import ParentProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The surroundings of a push, checked."""

    surroundings: Surroundings
    parent: ParentProxy | None = None
    parents: Mapping[str, ParentProxy] = field(default_factory=dict)
    """Backend → a parent proxy of its own, instead of `parent`."""
    own_ports: Mapping[str, int] = field(default_factory=dict)
    """Backend → the port that it listens on itself."""


def parse_around(block: Mapping[str, Any], own: frozenset[IP]) -> Around:
    """Read the `surroundings` of a push; what is not there is empty.

    Keys: host_addresses, self_addresses, gateway_ports, host_gateway, resolve (`HOST:PORT:ADDRESS`), upstream_proxy,
    no_proxy, standalone, own_ports, own_proxies (backend → {upstream_proxy, no_proxy}). `own` are the addresses that this
    process sees on its own interfaces. Raises ValueError.
    """
    gateway = block.get("host_gateway")
    surroundings = Surroundings(
        host_addresses=addresses(block.get("host_addresses", ())),
        self_addresses=addresses(block.get("self_addresses", ())) | own,
        gateway_ports=frozenset(int(port) for port in block.get("gateway_ports", ())),
        host_gateway=ipaddress.ip_address(gateway) if gateway else None,
        overrides=parse_overrides(block.get("resolve", ())),
        standalone=bool(block.get("standalone", False)),
    )
    proxy = block.get("upstream_proxy")
    parent = ParentProxy.parse(str(proxy), block.get("no_proxy", ())) if proxy else None
    parents = {
        str(name): ParentProxy.parse(str(own["upstream_proxy"]), own.get("no_proxy", ()))
        for name, own in block.get("own_proxies", {}).items()
    }
    own_ports = {str(name): int(port) for name, port in block.get("own_ports", {}).items()}
    return Around(surroundings=surroundings, parent=parent, parents=parents, own_ports=own_ports)


def addresses(texts: Sequence[str]) -> frozenset[IP]:
    return frozenset(ipaddress.ip_address(text) for text in texts)


def parse_overrides(entries: Sequence[str]) -> dict[tuple[str, int], tuple[IP, ...]]:
    """`HOST:PORT:ADDRESS` as curl's --resolve; several lines of one host and port add up. Raises ValueError."""
    found: dict[tuple[str, int], tuple[IP, ...]] = {}
    for entry in entries:
        host, colon, rest = entry.partition(":")
        port, colon2, address = rest.partition(":")
        if not colon or not colon2 or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{entry!r}: write HOST:PORT:ADDRESS")
        key = (canonical_host(host), int(port))
        found[key] = (*found.get(key, ()), ipaddress.ip_address(address.strip("[]")))
    return found
