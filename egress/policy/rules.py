"""A backend's policy as values: rules, ports, mode, limits. Read from a configuration by `egress.policy.parse`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, TypeAlias

HOST_NAME: Final = "host.docker.internal"
DEFAULT_PORTS: Final = (80, 443)
Net: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Path: TypeAlias = tuple[str | int, ...]


class Mode(StrEnum):
    """What happens to a connection that the rules do not allow."""

    ENFORCE = "enforce"
    REPORT = "report"
    """Public addresses are allowed, and it is said what would have been denied."""
    LEARN = "learn"
    """As `report`; the connections are the material for `stockade egress suggest`."""


class Protocol(StrEnum):
    """What a tunnel may carry."""

    HTTP = "http"
    """TLS whose SNI, or plain HTTP whose Host, is the host that was asked for."""
    TCP = "tcp"
    """Opaque bytes."""


class RuleKind(StrEnum):
    """How a rule matches."""

    EXACT = "exact"
    SUFFIX = "suffix"
    """`.example.com`: the apex and everything below it."""
    SUBDOMAIN = "subdomain"
    """`*.example.com`: everything below, not the apex."""
    ANY = "any"
    """`*`: any public host."""
    ADDRESS = "address"
    HOST = "host"
    """`host.docker.internal`: the machine that runs the engine."""


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def to_json(self) -> int | str:
        """A number, or `FIRST-LAST`."""
        return self.first if self.first == self.last else str(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of `allowed_hosts`."""

    text: str = field(compare=False)
    """As written; the rule's name in events, metrics and words."""
    kind: RuleKind
    host: str = ""
    """Canonical name, for `.x` and `*.x` without the prefix."""
    network: Net | None = None
    ports: tuple[PortRange, ...] = ()
    """Empty: the policy's ports."""
    private: bool = False
    protocol: Protocol = Protocol.HTTP

    @property
    def pattern(self) -> str:
        """The canonical spelling of what it matches, without ports."""
        match self.kind:
            case RuleKind.SUFFIX:
                return f".{self.host}"
            case RuleKind.SUBDOMAIN:
                return f"*.{self.host}"
            case RuleKind.ANY:
                return "*"
            case RuleKind.ADDRESS:
                network = self.network
                assert network is not None
                return str(network.network_address if network.num_addresses == 1 else network)
            case _:
                return self.host

    def to_json(self) -> str | dict[str, Any]:
        """Canonical, as an entry of `allowed_hosts`: a string where that says it all."""
        found: dict[str, Any] = {"host": self.pattern}
        if self.ports:
            found["ports"] = [ports.to_json() for ports in sorted(self.ports, key=_first)]
        if self.private:
            found["private"] = True
        if self.protocol is not Protocol.HTTP:
            found["protocol"] = str(self.protocol)
        return self.pattern if len(found) == 1 else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one backend; None keeps the egress's own default."""

    connections: int | None = None
    """Open at once."""
    rate: float | None = None
    """New connections per second."""
    dns_rate: float | None = None
    """Lookups per second."""
    lookups: int | None = None
    """Lookups under way at once."""
    head_timeout_s: float | None = None
    idle_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong (or, as a warning, questionable) in a network block."""

    path: Path
    """Keys and indexes from the block down."""
    message: str
    at_key: bool = False
    """True where the key itself is wrong, not its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A backend's whole policy, indexed for deciding."""

    rules: tuple[Rule, ...] = ()
    ports: tuple[PortRange, ...] = ()
    """`allowed_ports`; empty: 80 and 443."""
    mode: Mode = Mode.ENFORCE
    isolated: bool = True
    direct: bool = False
    """Whether connections that ignore the proxy are carried, under the same policy."""
    join: tuple[str, ...] = ()
    limits: Limits = Limits()
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    by_name: Mapping[str, tuple[Rule, ...]] = field(init=False, repr=False, compare=False)
    by_suffix: Mapping[str, tuple[Rule, ...]] = field(init=False, repr=False, compare=False)
    by_address: tuple[Rule, ...] = field(init=False, repr=False, compare=False)
    any_host: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[str, Any] = {"by_name": {}, "by_suffix": {}}
        for rule in self.rules:
            if rule.kind in (RuleKind.EXACT, RuleKind.HOST):
                index["by_name"].setdefault(rule.host, []).append(rule)
            elif rule.kind in (RuleKind.SUFFIX, RuleKind.SUBDOMAIN):
                index["by_suffix"].setdefault(rule.host, []).append(rule)
        for name, found in index.items():
            object.__setattr__(self, name, {host: tuple(rules) for host, rules in found.items()})
        object.__setattr__(self, "by_address", tuple(r for r in self.rules if r.kind is RuleKind.ADDRESS))
        object.__setattr__(self, "any_host", tuple(r for r in self.rules if r.kind is RuleKind.ANY))

    def allows_port(self, rule: Rule, port: int) -> bool:
        """Whether a rule's ports (its own, else the policy's, else 80 and 443) have this one.

        The host is never opened by the default ports: its ports must be named.
        """
        ranges = rule.ports or self.ports
        if not ranges:
            return port in DEFAULT_PORTS and rule.kind is not RuleKind.HOST
        return any(port in allowed for allowed in ranges)

    def names_port(self, port: int) -> bool:
        """Whether a host that is allowed without ports of its own is allowed on this one."""
        return any(port in allowed for allowed in self.ports) if self.ports else port in DEFAULT_PORTS

    def ports_text(self, rule: Rule) -> str:
        """The ports of a rule for a person: `80, 443`."""
        ranges = rule.ports or self.ports
        if not ranges:
            return "none" if rule.kind is RuleKind.HOST else ", ".join(map(str, DEFAULT_PORTS))
        return ", ".join(map(str, sorted(ranges, key=_first)))

    def to_json(self) -> dict[str, Any]:
        """The network block in canonical form: equal policies render equally, defaults are left out.

        `parse_policy` of it is an equal policy when the rules are in this order.
        """
        found: dict[str, Any] = {}
        if not self.isolated:
            found["isolated"] = False
        if self.rules:
            found["allowed_hosts"] = [rule.to_json() for rule in sorted(self.rules, key=_rule_order)]
        if self.ports:
            found["allowed_ports"] = [ports.to_json() for ports in sorted(self.ports, key=_first)]
        if self.mode is not Mode.ENFORCE:
            found["mode"] = str(self.mode)
        if self.direct:
            found["direct"] = "allow"
        if self.join:
            found["join"] = list(self.join)
        limits = {spec.name: getattr(self.limits, spec.name) for spec in fields(self.limits)}
        if any(value is not None for value in limits.values()):
            found["limits"] = {name: value for name, value in limits.items() if value is not None}
        return found


def _first(ports: PortRange) -> tuple[int, int]:
    return ports.first, ports.last


def _rule_order(rule: Rule) -> tuple[str, str, str]:
    return rule.host, rule.pattern, str(rule.to_json())
