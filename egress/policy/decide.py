"""What a backend may reach, decided without any I/O.

Theory of operation
-------------------
Nothing named is nothing allowed. A decision has two halves, because a denied name must never be looked up (a lookup is a
message to the outside):

* `decide_name` sees what the caller asked for: a name and a port. A name matches exact, suffix, subdomain and `*` rules;
  an address literal matches only IP and CIDR rules; `host.docker.internal` only its own rule.
* `decide` sees the answers of the lookup too, and picks the address to dial. *Every* answer must be permitted: one
  forbidden answer among good ones denies the connection, since a mixed answer is what rebinding looks like.

Rules only ever add. Where several have the host and the port, the nearest (exact, then the longest suffix, then `*`) that
permits the addresses decides.

A special address (private, link-local, metadata, …) is denied unless a rule *names* it: an IP or CIDR rule that lies in
that special range as a whole (so 0.0.0.0/0 names none), for metadata services a rule for that one address, or `private:
true` on the host's rule for private and CGNAT ones. An IPv6 address that carries an IPv4 one needs a rule for both. Modes
`report` and `learn` let public addresses pass that `enforce` would deny, and nothing else. Above every rule and mode stand
loopback and unspecified addresses, the egress's own addresses, the gateway's ports, and the
addresses of the host (except `host.docker.internal` and an exact override).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from egress.policy.addresses import AddressClass, classify, embedded_ipv4, in_any, reason_for
from egress.policy.names import IP, Target
from egress.policy.parse import PolicyError, parse_policy
from egress.policy.rules import (
    DEFAULT_PORTS,
    HOST_NAME,
    Limits,
    Mode,
    Net,
    Policy,
    PortRange,
    Problem,
    Protocol,
    Rule,
    RuleKind,
)
from observability.events import Reason

__all__ = [
    "DEFAULT_PORTS",
    "HOST_NAME",
    "Allow",
    "Deny",
    "Limits",
    "Mode",
    "Policy",
    "PolicyError",
    "PortRange",
    "Problem",
    "Protocol",
    "Rule",
    "RuleKind",
    "Surroundings",
    "Target",
    "decide",
    "decide_name",
    "parse_policy",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the policy must know of the world around it."""

    host_addresses: frozenset[IP] = frozenset()
    """Every address of the machine that runs the engine, public ones too."""
    self_addresses: frozenset[IP] = frozenset()
    """The egress's own addresses."""
    gateway_ports: frozenset[int] = frozenset()
    """The gateway's own ports on the host (for the standalone proxy: its own port)."""
    host_gateway: IP | None = None
    """The address at which `host.docker.internal` is reached."""
    overrides: Mapping[tuple[str, int], tuple[IP, ...]] = field(default_factory=dict)
    """`egress.resolve`: exact statements of trust."""
    standalone: bool = False
    """The proxy serves its own machine: loopback can be opened by an explicit IP rule or override."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """Go on. `rule` is None where only the mode allows it; `would_deny` then says what `enforce` would."""

    rule: Rule | None
    would_deny: Reason | None = None
    address: IP | None = None
    """The address to dial; None from `decide_name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """Stop. `rule` is the one that came nearest, where there is one."""

    reason: Reason
    rule: Rule | None = None
    detail: str = ""
    """One sentence for a person, without a full stop."""


def decide_name(policy: Policy, target: Target, surroundings: Surroundings) -> Allow | Deny:
    """The decision before any lookup. `Allow` here means: look it up (or take the literal), then `decide`."""
    found = _by_name(policy, target, surroundings)
    return found[0] if isinstance(found, list) else found


def decide(policy: Policy, target: Target, addresses: Sequence[IP], surroundings: Surroundings) -> Allow | Deny:
    """The whole decision, with what the name resolved to (for a literal: the literal).

    `Allow.address` is the one to dial. No address at all is `dns_failed`; one forbidden address denies all.
    """
    found = _by_name(policy, target, surroundings)
    if isinstance(found, Deny):
        return found
    if not addresses:
        return Deny(reason=Reason.DNS_FAILED, rule=found[0].rule, detail=f"{target.host} has no address")
    first: Deny | None = None
    for allow in found:
        denied = _check_addresses(policy, target, allow.rule, addresses, surroundings)
        if denied is None:
            return Allow(rule=allow.rule, would_deny=allow.would_deny, address=addresses[0])
        first = first or denied
    assert first is not None
    return first


# --- by name


def _by_name(policy: Policy, target: Target, around: Surroundings) -> list[Allow] | Deny:
    """What allows the target by its name, nearest first and never empty, or why nothing does."""
    local = target.host == "localhost" or target.host.endswith(".localhost")
    if local and not around.standalone and (target.host, target.port) not in around.overrides:
        return Deny(reason=Reason.ADDRESS_LOOPBACK, detail=f"{target.host} is a loopback name; no rule opens it")
    candidates = _candidates(policy, target)
    matching = [Allow(rule=rule) for rule in candidates if policy.allows_port(rule, target.port)]
    if matching:
        return matching
    no = _why_not(policy, target, candidates)
    if policy.mode is Mode.ENFORCE or target.host == HOST_NAME:
        return no
    return [Allow(rule=None, would_deny=no.reason)]


def _candidates(policy: Policy, target: Target) -> list[Rule]:
    """The rules that have the host, nearest first."""
    if target.ip is not None:
        return _address_rules(policy, target.ip)
    found = list(policy.by_name.get(target.host, ()))
    if target.host == HOST_NAME:
        return found
    rest = target.host
    while rest:
        apex = rest == target.host
        found += [rule for rule in policy.by_suffix.get(rest, ()) if rule.kind is RuleKind.SUFFIX or not apex]
        rest = rest.partition(".")[2]
    found.extend(policy.any_host)
    return found


def _why_not(policy: Policy, target: Target, candidates: Sequence[Rule]) -> Deny:
    """The denial of a target that no rule has with its port."""
    if not policy.rules:
        return Deny(reason=Reason.EMPTY_POLICY, detail="this server's policy names no host, so it reaches nothing")
    if candidates:
        rule = candidates[0]
        allowed = f"{target.host} is allowed by {rule.text} on port {policy.ports_text(rule)}, not on {target.port}"
        return Deny(reason=Reason.PORT_NOT_ALLOWED, rule=rule, detail=allowed)
    if target.ip is not None:
        return Deny(
            reason=Reason.IP_NOT_ALLOWED,
            detail=f"{target.host} is an address, and no IP or CIDR rule has it; a name's rule does not open an address",
        )
    return Deny(reason=Reason.HOST_NOT_ALLOWED, detail=f"no rule allows {target.host}")


# --- by address


def _check_addresses(
    policy: Policy, target: Target, rule: Rule | None, addresses: Sequence[IP], around: Surroundings
) -> Deny | None:
    for address in addresses:
        if (denied := _check_address(policy, target, rule, address, around)) is not None:
            return denied
    return None


def _check_address(
    policy: Policy, target: Target, rule: Rule | None, address: IP, around: Surroundings
) -> Deny | None:
    """Why an address may not be dialled, or None when it may."""
    carried = (address, *embedded_ipv4(address))
    overridden = address in around.overrides.get((target.host, target.port), ())
    if any(_is_self(one, target.port, around) for one in carried):
        return _no(Reason.ADDRESS_SELF, rule, target, address, "Stockade's own; nothing opens it")
    if any(_is_loopback(one) for one in carried) and not _loopback_opened(
        policy, target, address, overridden, around
    ):
        return _no(Reason.ADDRESS_LOOPBACK, rule, target, address, "a loopback address; no rule opens it")
    if overridden:
        return None
    if any(_is_host(one, around) for one in carried):
        return _check_host(target, rule, address, around)
    for one in carried:
        kind = classify(one)
        reason = reason_for(kind)
        if reason is not None and not _opened_by_private(rule, kind) and not _named(policy, target.port, one):
            return _no(reason, rule, target, address, f"{kind.replace('_', '-')}; no rule names it")
    return None


def _check_host(target: Target, rule: Rule | None, address: IP, around: Surroundings) -> Deny | None:
    if target.host == HOST_NAME and address == around.host_gateway:
        return None
    if around.standalone and target.ip is not None and rule is not None:
        return None
    return _no(Reason.ADDRESS_HOST, rule, target, address, f"an address of the host; only {HOST_NAME} opens it")


def _is_self(address: IP, port: int, around: Surroundings) -> bool:
    if address in around.self_addresses and not around.standalone:
        return True
    ours = _is_host(address, around) or _is_loopback(address) or address in around.self_addresses
    return ours and port in around.gateway_ports


def _is_host(address: IP, around: Surroundings) -> bool:
    return address in around.host_addresses or address == around.host_gateway


def _is_loopback(address: IP) -> bool:
    return classify(address) in (AddressClass.LOOPBACK, AddressClass.UNSPECIFIED)


def _loopback_opened(policy: Policy, target: Target, address: IP, overridden: bool, around: Surroundings) -> bool:
    """Only where the proxy serves its own machine, by an explicit IP rule or override, and never the unspecified address."""
    if not around.standalone or classify(address) is not AddressClass.LOOPBACK:
        return False
    return overridden or _named(policy, target.port, address)


def _address_rules(policy: Policy, address: IP) -> list[Rule]:
    """The IP and CIDR rules that have an address, the narrowest first."""
    found = [(rule, rule.network) for rule in policy.by_address if rule.network and in_any(address, (rule.network,))]
    return [rule for rule, network in sorted(found, key=lambda pair: -pair[1].prefixlen)]


def _named(policy: Policy, port: int, address: IP) -> bool:
    """Whether an IP or CIDR rule with this port means this special address, not only covers it by its size."""
    return any(
        rule.network is not None and policy.allows_port(rule, port) and _means(rule.network, address)
        for rule in _address_rules(policy, address)
    )


def _means(network: Net, address: IP) -> bool:
    kind = classify(address)
    if kind is AddressClass.METADATA:
        return network.num_addresses == 1
    return classify(network[0]) is kind and classify(network[-1]) is kind


def _opened_by_private(rule: Rule | None, kind: AddressClass) -> bool:
    return rule is not None and rule.private and kind in (AddressClass.PRIVATE, AddressClass.CGNAT)


def _no(reason: Reason, rule: Rule | None, target: Target, address: IP, why: str) -> Deny:
    where = str(address) if target.ip is not None else f"{target.host} resolves to {address}, which"
    return Deny(reason=reason, rule=rule, detail=f"{where} is {why}")
