"""What a backend may reach: read from its `network:` block, and decided without any I/O.

Theory of operation
-------------------
Nothing named is nothing allowed. A decision has two halves, because a denied name must never be looked up (a lookup is a
message to the outside):

* `decide_name` sees what the caller asked for: a name and a port. A name matches exact, suffix, subdomain and `*` rules;
  an address literal matches only IP and CIDR rules; `host.docker.internal` only its own rule.
* `decide` sees the answers of the lookup too, and picks the address to dial. *Every* answer must be permitted: one
  forbidden answer among good ones denies the connection, since a mixed answer is what rebinding looks like.

A special address (private, link-local, metadata, …) is denied unless a rule *names* it: an IP or CIDR rule that lies in
that special range as a whole (so 0.0.0.0/0 names none), for metadata services a rule for that one address, or `private:
true` on the host's rule for private and CGNAT ones. Modes `report` and `learn` let public addresses pass that `enforce`
would deny, and nothing else. Above every rule and mode stand loopback and unspecified addresses, the egress's own
addresses, the gateway's ports, and (but for `host.docker.internal`) the addresses of the host.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

from egress.addresses import AddressClass, classify, embedded_ipv4, in_any, plain, reason_for
from egress.names import IP, Target, canonical_host
from observability.events import Reason

__all__ = [
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of `allowed_hosts`."""

    text: str
    """As written; the rule's name in events, metrics and words."""
    kind: RuleKind
    host: str = ""
    """Canonical name, for `.x` and `*.x` without the prefix."""
    network: Net | None = None
    ports: tuple[PortRange, ...] = ()
    """Empty: the policy's ports."""
    private: bool = False
    protocol: Protocol = Protocol.HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one backend; None keeps the egress's own default."""

    connections: int | None = None
    rate: float | None = None
    """New connections per second."""
    dns_rate: float | None = None
    """Lookups per second."""
    idle_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A backend's whole policy, indexed for deciding. Made by `parse_policy`."""

    rules: tuple[Rule, ...] = ()
    ports: tuple[PortRange, ...] = ()
    """`allowed_ports`; empty: 80 and 443."""
    mode: Mode = Mode.ENFORCE
    direct: bool = False
    """Whether connections that ignore the proxy are carried, under the same policy."""
    join: tuple[str, ...] = ()
    limits: Limits = Limits()
    warnings: tuple[Problem, ...] = ()
    by_name: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict, repr=False, compare=False)
    by_suffix: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict, repr=False, compare=False)
    by_address: tuple[Rule, ...] = field(default=(), repr=False, compare=False)
    any_host: tuple[Rule, ...] = field(default=(), repr=False, compare=False)

    def allows_port(self, rule: Rule, port: int) -> bool:
        """Whether a rule's ports (its own, else the policy's, else 80 and 443) have this one."""
        ranges = rule.ports or self.ports
        return any(port in allowed for allowed in ranges) if ranges else port in DEFAULT_PORTS


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


# deciding


def decide_name(policy: Policy, target: Target, surroundings: Surroundings) -> Allow | Deny:
    """The decision before any lookup. `Allow` here means: look it up (or dial the literal), then `decide`."""
    if target.host == "localhost" or target.host.endswith(".localhost"):
        if (target.host, target.port) not in surroundings.overrides:
            return Deny(reason=Reason.ADDRESS_LOOPBACK, detail="localhost is never reached through the egress")
    if isinstance(found := _match(policy, target), Rule):
        return Allow(rule=found)
    if policy.mode is Mode.ENFORCE or target.host == HOST_NAME:
        return found
    return Allow(rule=None, would_deny=found.reason)


def _match(policy: Policy, target: Target) -> Rule | Deny:
    """The first rule that has host and port, or why there is none."""
    if not policy.rules:
        return Deny(reason=Reason.EMPTY_POLICY, detail="this server's policy names no host, so it reaches nothing")
    nearest: Rule | None = None
    for rule in _candidates(policy, target):
        if policy.allows_port(rule, target.port):
            return rule
        nearest = nearest or rule
    if nearest is not None:
        allowed = ", ".join(map(str, nearest.ports or policy.ports or DEFAULT_PORTS))
        return Deny(
            reason=Reason.PORT_NOT_ALLOWED,
            rule=nearest,
            detail=f"{target.host} is allowed by {nearest.text}, but on port {allowed} only, not {target.port}",
        )
    if target.ip is not None:
        return Deny(
            reason=Reason.IP_NOT_ALLOWED,
            detail=f"{target.host} is an address, and no IP or CIDR rule has it; a name's rule does not open an address",
        )
    return Deny(reason=Reason.HOST_NOT_ALLOWED, detail=f"no rule allows {target.host}")


def _candidates(policy: Policy, target: Target) -> list[Rule]:
    """The rules that have the host, nearest first."""
    if target.ip is not None:
        address = plain(target.ip)
        return [rule for rule in policy.by_address if rule.network is not None and in_any(address, (rule.network,))]
    found = list(policy.by_name.get(target.host, ()))
    if target.host == HOST_NAME:
        return found
    rest = target.host
    while rest:
        below = rest != target.host
        found += [rule for rule in policy.by_suffix.get(rest, ()) if below or rule.kind is RuleKind.SUFFIX]
        rest = rest.partition(".")[2]
    found.extend(policy.any_host)
    return found


def decide(policy: Policy, target: Target, addresses: Sequence[IP], surroundings: Surroundings) -> Allow | Deny:
    """The whole decision, with what the name resolved to (for a literal: the literal). `Allow.address` is the one to dial.

    No address at all is `dns_failed`; one forbidden address denies all.
    """
    verdict = decide_name(policy, target, surroundings)
    if isinstance(verdict, Deny):
        return verdict
    if not addresses:
        return Deny(reason=Reason.DNS_FAILED, rule=verdict.rule, detail=f"{target.host} has no address")
    for address in addresses:
        if (denied := _check_address(policy, target, verdict.rule, address, surroundings)) is not None:
            return denied
    return Allow(rule=verdict.rule, would_deny=verdict.would_deny, address=addresses[0])


def _check_address(
    policy: Policy, target: Target, rule: Rule | None, address: IP, around: Surroundings
) -> Deny | None:
    """Why an address may not be dialled, or None when it may."""
    carried = {plain(address), *embedded_ipv4(address)}
    if any(_is_self(one, target.port, around) for one in carried):
        return _no(Reason.ADDRESS_SELF, rule, target, address, "Stockade's own; nothing opens it")
    overridden = address in around.overrides.get((target.host, target.port), ())
    named = overridden or any(_names(other, address) for other in _address_rules(policy, target.port))
    if any(_is_loopback(one) for one in carried) and not (around.standalone and named):
        return _no(Reason.ADDRESS_LOOPBACK, rule, target, address, "a loopback address; no rule opens it")
    if overridden:
        return None
    if carried & around.host_addresses or address == around.host_gateway:
        return _check_host(target, rule, address, around)
    kind = classify(plain(address))
    reason = reason_for(kind)
    if reason is None or named or _opened_by_private(rule, kind):
        return None
    return _no(reason, rule, target, address, f"{kind.replace('_', '-')}; no rule names it")


def _check_host(target: Target, rule: Rule | None, address: IP, around: Surroundings) -> Deny | None:
    if target.host == HOST_NAME and address == around.host_gateway:
        return None
    named = rule is not None and rule.kind is RuleKind.ADDRESS and rule.network is not None
    if around.standalone and named and target.ip is not None:
        return None
    return _no(Reason.ADDRESS_HOST, rule, target, address, f"an address of the host; only {HOST_NAME} opens it")


def _is_self(address: IP, port: int, around: Surroundings) -> bool:
    if address in around.self_addresses and not around.standalone:
        return True
    ours = address in around.host_addresses or address == around.host_gateway or _is_loopback(address)
    return port in around.gateway_ports and (ours or address in around.self_addresses)


def _is_loopback(address: IP) -> bool:
    return classify(address) in (AddressClass.LOOPBACK, AddressClass.UNSPECIFIED)


def _address_rules(policy: Policy, port: int) -> list[Rule]:
    return [rule for rule in policy.by_address if policy.allows_port(rule, port)]


def _names(rule: Rule, address: IP) -> bool:
    """Whether an IP or CIDR rule means this special address, rather than covering it by its sheer size."""
    network = rule.network
    if network is None or not in_any(address, (network,)):
        return False
    kind = classify(address)
    if kind is AddressClass.METADATA:
        return network.num_addresses == 1
    return classify(network[0]) is kind and classify(network[-1]) is kind


def _opened_by_private(rule: Rule | None, kind: AddressClass) -> bool:
    return rule is not None and rule.private and kind in (AddressClass.PRIVATE, AddressClass.CGNAT)


def _no(reason: Reason, rule: Rule | None, target: Target, address: IP, why: str) -> Deny:
    where = str(address) if target.ip is not None else f"{target.host} resolves to {address}, which"
    return Deny(reason=reason, rule=rule, detail=f"{where} is {why}")


# reading


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong (or, as a warning, questionable) in a network block."""

    path: Path
    """Keys and indexes from the block down."""
    message: str


class PolicyError(ValueError):
    """Raised when a network block cannot be read; has all problems, not the first only."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{'.'.join(map(str, p.path)) or 'network'}: {p.message}" for p in problems))


KEYS: Final = ("isolated", "allowed_hosts", "allowed_ports", "mode", "direct", "join", "limits")
RULE_KEYS: Final = ("host", "port", "ports", "private", "protocol")
LIMIT_KEYS: Final = ("connections", "rate", "dns_rate", "idle_timeout_s")
WIDE_V4, WIDE_V6 = 8, 16


def parse_policy(block: Mapping[str, object]) -> Policy:
    """The policy of a server's `network:` block in plain JSON types. Raises PolicyError with all problems."""
    return _Reader().read(block)


class _Reader:
    """Reads one block; collects problems and warnings on the way."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def read(self, block: Mapping[str, object]) -> Policy:
        if not isinstance(block, Mapping):
            raise PolicyError([Problem((), "must be a mapping such as {allowed_hosts: [api.github.com]}")])
        self.unknown(block, KEYS, ())
        self.boolean(block, "isolated", ())
        ports = self.ports(block.get("allowed_ports", ()), ("allowed_ports",))
        rules = self.rules(block.get("allowed_hosts", ()), bool(ports))
        mode = self.choice(block, "mode", tuple(Mode), Mode.ENFORCE)
        direct = self.choice(block, "direct", ("deny", "allow"), "deny")
        join = self.names(block.get("join", ()), ("join",))
        limits = self.limits(block.get("limits", {}))
        if ports and not rules and not block.get("allowed_hosts"):
            self.warn(
                ("allowed_ports",), "allows nothing without allowed_hosts: name the hosts, or '*' for any public host"
            )
        if self.problems:
            raise PolicyError(self.problems)
        return _index(
            Policy(
                rules=rules,
                ports=ports,
                mode=Mode(mode),
                direct=direct == "allow",
                join=join,
                limits=limits,
                warnings=tuple(self.warnings),
            )
        )

    def fault(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path, message))

    def warn(self, path: Path, message: str) -> None:
        self.warnings.append(Problem(path, message))

    def unknown(self, block: Mapping[Any, object], known: Sequence[str], path: Path) -> None:
        for key in block:
            if key in known:
                continue
            near = difflib.get_close_matches(str(key), known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            self.fault((*path, str(key)), f"unknown key; {advice}")

    def boolean(self, block: Mapping[str, object], key: str, path: Path) -> bool:
        value = block.get(key, False)
        if not isinstance(value, bool):
            self.fault((*path, key), f"must be true or false, not {value!r}")
            return False
        return value

    def choice(self, block: Mapping[str, object], key: str, words: Sequence[str], default: str) -> str:
        value = block.get(key, default)
        if isinstance(value, str) and value in words:
            return value
        self.fault((key,), f"must be one of {', '.join(words)}, not {value!r}")
        return default

    def sequence(self, value: object, path: Path, example: str) -> Sequence[object]:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return value
        self.fault(path, f"must be a list such as [{example}], not {value!r}")
        return ()

    def names(self, value: object, path: Path) -> tuple[str, ...]:
        found = []
        for index, name in enumerate(self.sequence(value, path, "myapp_default")):
            if isinstance(name, str) and name and not name.isspace():
                found.append(name)
            else:
                self.fault((*path, index), f"must be the name of a network, not {name!r}")
        return tuple(found)

    # ports

    def ports(self, value: object, path: Path) -> tuple[PortRange, ...]:
        found: list[PortRange] = []
        for index, entry in enumerate(self.sequence(value, path, "443")):
            if (one := self.port(entry, (*path, index))) is None:
                continue
            if one in found:
                self.warn((*path, index), f"{one} is there twice")
            else:
                found.append(one)
        return tuple(found)

    def port(self, entry: object, path: Path) -> PortRange | None:
        if isinstance(entry, int) and not isinstance(entry, bool):
            first, last = entry, entry
        elif isinstance(entry, str) and all(part.strip().isdecimal() for part in entry.split("-", 1)):
            parts = [int(part) for part in entry.split("-", 1)]
            first, last = parts[0], parts[-1]
        else:
            self.fault(path, f"must be a port such as 443 or a range such as 8000-8010, not {entry!r}")
            return None
        if not 1 <= first <= 65535 or not 1 <= last <= 65535:
            self.fault(path, f"{entry} is not a port: ports go from 1 to 65535")
            return None
        if first > last:
            self.fault(path, f"the range {entry} is the wrong way round: write {last}-{first}")
            return None
        return PortRange(first, last)

    # rules

    def rules(self, value: object, ports_named: bool) -> tuple[Rule, ...]:
        found: list[Rule] = []
        for index, entry in enumerate(self.sequence(value, ("allowed_hosts",), "api.github.com")):
            path: Path = ("allowed_hosts", index)
            if (rule := self.rule(entry, path, ports_named)) is None:
                continue
            if any(same(rule, other) for other in found):
                self.warn(path, f"{rule.text} is there twice")
            found.append(rule)
        return tuple(found)

    def rule(self, entry: object, path: Path, ports_named: bool) -> Rule | None:
        before = len(self.problems)
        if isinstance(entry, str):
            found = self.written(entry, path, ports=(), private=False, protocol=Protocol.HTTP)
        elif isinstance(entry, Mapping):
            found = self.mapped(entry, path)
        else:
            self.fault(path, f"must be a host such as api.github.com or a mapping with host:, not {entry!r}")
            return None
        if found is None or len(self.problems) > before:
            return None
        return self.checked(found, path, ports_named)

    def mapped(self, entry: Mapping[Any, object], path: Path) -> Rule | None:
        self.unknown(entry, RULE_KEYS, path)
        host = entry.get("host")
        if not isinstance(host, str):
            self.fault(
                (*path, "host"), "is missing: name the host that this rule is for" if host is None else "must be text"
            )
            return None
        ports = self.ports(entry.get("ports", ()), (*path, "ports"))
        if "port" in entry and (one := self.port(entry["port"], (*path, "port"))) is not None:
            ports = (*ports, one)
        protocol = entry.get("protocol", Protocol.HTTP)
        if protocol not in tuple(Protocol):
            self.fault((*path, "protocol"), f"must be tcp (opaque bytes) or left out, not {protocol!r}")
            return None
        private = self.boolean(entry, "private", path)
        return self.written(host, (*path, "host"), ports=ports, private=private, protocol=Protocol(str(protocol)))

    def written(
        self, text: str, path: Path, *, ports: tuple[PortRange, ...], private: bool, protocol: Protocol
    ) -> Rule | None:
        host, own = text, ports
        if (split := _port_suffix(text)) is not None:
            host, digits = split
            one = self.port(int(digits) if digits.isdecimal() else digits, path)
            if one is None:
                return None
            own = (*ports, one)
        try:
            kind, name, network = _pattern(host)
        except ValueError as error:
            self.fault(path, str(error))
            return None
        return Rule(text=text, kind=kind, host=name, network=network, ports=own, private=private, protocol=protocol)

    def checked(self, rule: Rule, path: Path, ports_named: bool) -> Rule | None:
        """A rule that holds, after what concerns more than one key of it."""
        if rule.kind is RuleKind.HOST and not rule.ports and not ports_named:
            self.fault(path, f"needs a port, since the host is never opened as a whole: write {HOST_NAME}:3000")
        if rule.protocol is Protocol.TCP and rule.kind not in (RuleKind.EXACT, RuleKind.ADDRESS, RuleKind.HOST):
            self.fault(path, "protocol: tcp is for one host, not a pattern, since nothing inside can be checked")
        elif rule.protocol is Protocol.TCP and not rule.ports:
            self.fault(path, f"protocol: tcp needs its own port: write host: {rule.text}:5432")
        if rule.private and rule.kind is RuleKind.ANY:
            self.fault(path, "private: true is for hosts that you name, not for '*'")
        self.lint(rule, path)
        return rule

    def lint(self, rule: Rule, path: Path) -> None:
        if rule.kind in (RuleKind.SUFFIX, RuleKind.SUBDOMAIN) and "." not in rule.host:
            self.warn(path, f"{rule.text} is every host below a top-level domain; name the domain you mean")
        if rule.kind is RuleKind.ANY:
            self.warn(path, "'*' is every public host on the allowed ports")
        network = rule.network
        if network is not None and network.prefixlen < (WIDE_V4 if network.version == 4 else WIDE_V6):
            self.warn(path, f"{rule.text} is a very large range, and opens no private address by its size")

    # limits

    def limits(self, value: object) -> Limits:
        if not isinstance(value, Mapping):
            self.fault(("limits",), f"must be a mapping such as {{connections: 256}}, not {value!r}")
            return Limits()
        self.unknown(value, LIMIT_KEYS, ("limits",))
        found: dict[str, Any] = {}
        for key in LIMIT_KEYS:
            number = value.get(key)
            if number is None:
                continue
            whole = key == "connections"
            if isinstance(number, bool) or not isinstance(number, int if whole else int | float) or number <= 0:
                self.fault(("limits", key), f"must be a {'whole ' if whole else ''}number above 0, not {number!r}")
            else:
                found[key] = number
        return Limits(**found)


def same(rule: Rule, other: Rule) -> bool:
    """Whether two rules open the same thing, however they are written."""
    key = (rule.kind, rule.host, rule.network, frozenset(rule.ports), rule.private, rule.protocol)
    return key == (other.kind, other.host, other.network, frozenset(other.ports), other.private, other.protocol)


def _port_suffix(text: str) -> tuple[str, str] | None:
    """(host, port) of `HOST:PORT` or `[IPV6]:PORT`; None where there is no port (a bare IPv6 address, a URL)."""
    if "://" in text or "/" in text or any(map(str.isspace, text)):
        return None
    if text.startswith("["):
        host, bracket, port = text.partition("]:")
        return (host + "]", port) if bracket else None
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and ":" not in host else None


def _pattern(text: str) -> tuple[RuleKind, str, Net | None]:
    """What a rule's host means. Raises ValueError with advice."""
    if text == "*":
        return RuleKind.ANY, "", None
    if (network := _network(text)) is not None:
        return RuleKind.ADDRESS, "", network
    if text.startswith("*."):
        return RuleKind.SUBDOMAIN, _domain(text, text[2:]), None
    if text.startswith("."):
        return RuleKind.SUFFIX, _domain(text, text[1:]), None
    if "*" in text:
        bare = text.replace("*", "").strip(".-")
        raise ValueError(f"{text!r}: a * stands only at the front, as in *.{bare} (below it) or .{bare} (and itself)")
    name = canonical_host(text)
    return (RuleKind.HOST if name == HOST_NAME else RuleKind.EXACT), name, None


def _domain(text: str, rest: str) -> str:
    if "*" in rest or rest.startswith("."):
        raise ValueError(
            f"{text!r}: only one * or dot at the front; write .{rest.lstrip('*.')} or *.{rest.lstrip('*.')}"
        )
    name = canonical_host(rest)
    if _network(name) is not None:
        raise ValueError(f"{text!r}: an address has no subdomains; write {name}")
    return name


def _network(text: str) -> Net | None:
    """The network of an address or CIDR range; None when the text is a name. Raises ValueError for a crooked range."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "://" in text or not to_ascii_or_empty(bare):
        return None
    address, slash, length = bare.partition("/")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if "%" in address:
        raise ValueError(f"{text!r}: a zone id is not taken; write {address.partition('%')[0]}")
    parsed = plain(parsed)
    if not slash:
        return ipaddress.ip_network(parsed)
    if not length.isdecimal():
        raise ValueError(f"{text!r} is not an address range; write it as {parsed}/24 or name one address")
    try:
        return ipaddress.ip_network(f"{parsed}/{length}")
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(f"{parsed}/{length}", strict=False)
    except ValueError:
        raise ValueError(f"{text!r}: /{length} is not a prefix length for IPv{parsed.version}") from None
    raise ValueError(
        f"{text!r} has bits set past its prefix; write {meant} for the range or {parsed} for the one address"
    )


def to_ascii_or_empty(text: str) -> str:
    """The text if it is ASCII, else empty (an IDN is never an address)."""
    return text if text.isascii() else ""


def _index(policy: Policy) -> Policy:
    """The policy with its rules where `decide_name` looks them up."""
    by_name: dict[str, tuple[Rule, ...]] = {}
    by_suffix: dict[str, tuple[Rule, ...]] = {}
    for rule in policy.rules:
        if rule.kind in (RuleKind.EXACT, RuleKind.HOST):
            by_name[rule.host] = (*by_name.get(rule.host, ()), rule)
        elif rule.kind in (RuleKind.SUFFIX, RuleKind.SUBDOMAIN):
            by_suffix[rule.host] = (*by_suffix.get(rule.host, ()), rule)
    return Policy(
        rules=policy.rules,
        ports=policy.ports,
        mode=policy.mode,
        direct=policy.direct,
        join=policy.join,
        limits=policy.limits,
        warnings=policy.warnings,
        by_name=by_name,
        by_suffix=by_suffix,
        by_address=tuple(rule for rule in policy.rules if rule.kind is RuleKind.ADDRESS),
        any_host=tuple(rule for rule in policy.rules if rule.kind is RuleKind.ANY),
    )
