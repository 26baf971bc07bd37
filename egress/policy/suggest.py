"""From what a backend asked for to the smallest policy that allows it.

Hosts are taken one by one until there are several of a kind: three or more names right below one parent become
`*.parent`, five or more anywhere below one registrable domain become `*.domain` (with the apex, if it was asked for too,
`.domain`). A public suffix (`com`, `co.uk`, `github.io`, `s3.amazonaws.com`) is never proposed: anyone can have a name
below one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from egress.policy.addresses import AddressClass, classify
from egress.policy.names import IP, canonical_host, parse_host
from egress.policy.rules import DEFAULT_PORTS, HOST_NAME

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

HOPELESS: Final = (AddressClass.LOOPBACK, AddressClass.UNSPECIFIED, AddressClass.METADATA)
"""Never proposed: no rule opens the first two, and an operator who wants a metadata service writes that rule."""
Ports: TypeAlias = frozenset[int]
SIBLINGS: Final = 3
COUSINS: Final = 5


def suggest(seen: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The smallest `network:` block for these (host, port) pairs, in plain JSON types.

    What could never be allowed (loopback, malformed names) is left out. Nothing seen gives a block that allows nothing.
    """
    asked = _ports_by_host(seen)
    if not asked:
        return {"allowed_hosts": []}
    common = _common_ports(asked)
    entries: list[tuple[str, Ports]] = []
    for ports in sorted(set(asked.values()), key=sorted):
        hosts = [host for host, own in asked.items() if own == ports]
        entries += [(pattern, ports) for pattern in group(hosts)]
    block: dict[str, Any] = {"allowed_hosts": [_entry(pattern, ports, common) for pattern, ports in sorted(entries)]}
    if common != frozenset(DEFAULT_PORTS):
        block["allowed_ports"] = sorted(common)
    return block


def _ports_by_host(seen: Iterable[tuple[str, int]]) -> dict[str, Ports]:
    found: dict[str, set[int]] = {}
    for host, port in seen:
        try:
            name = canonical_host(host)
        except ValueError:
            continue
        if 1 <= port <= 65535 and not _hopeless(name):
            found.setdefault(name, set()).add(port)
    return {host: frozenset(ports) for host, ports in sorted(found.items())}


def _address(name: str) -> IP | None:
    return parse_host(f"[{name}]" if ":" in name else name)[1]


def _hopeless(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and classify(address) in HOPELESS


def _common_ports(asked: Mapping[str, Ports]) -> Ports:
    """The ports that most hosts need; `allowed_ports` is theirs."""
    counted = Counter(ports for host, ports in asked.items() if host != HOST_NAME)
    if not counted:
        return frozenset(DEFAULT_PORTS)
    return max(counted, key=lambda ports: (counted[ports], -len(ports), sorted(ports)))


def _entry(pattern: str, ports: Ports, common: Ports) -> str | dict[str, Any]:
    if ports == common and pattern != HOST_NAME:
        return pattern
    if len(ports) == 1 and ":" not in pattern:
        return f"{pattern}:{min(ports)}"
    return {"host": pattern, "ports": sorted(ports)}


def group(hosts: Iterable[str]) -> list[str]:
    """The patterns for hosts that need the same ports, sorted."""
    names = sorted(set(hosts))
    alone = [host for host in names if host == HOST_NAME or "." not in host or _address(host) is not None]
    left = set(names) - set(alone)
    found: list[str] = []
    for key, least in ((_parent, SIBLINGS), (registrable, COUSINS)):
        for domain in sorted({key(host) for host in left}, key=lambda name: (name.count("."), name)):
            below = {host for host in left if host.endswith(f".{domain}")}
            if domain and len({host for host in below if key(host) == domain}) >= least:
                found.append(f".{domain}" if domain in left else f"*.{domain}")
                left -= below | {domain}
    return sorted([*alone, *found, *left])


def _parent(host: str) -> str:
    """The name without its first label; empty where that would be a public suffix."""
    parent = host.partition(".")[2]
    return parent if registrable(parent) else ""


def registrable(host: str) -> str:
    """The registrable domain (public suffix plus one label); empty for a public suffix itself."""
    return str(public_suffixes().privatesuffix(host) or "")


@lru_cache(maxsize=1)
def public_suffixes() -> PublicSuffixList:
    """The list of public suffixes, read once in the life of the process: that takes a tenth of a second."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
