"""What would happen to a connection, in one sentence, without making it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from egress.policy.decide import Allow, Deny, Surroundings, decide, decide_name, parse_policy
from egress.policy.liftable import NAMED_BY_HOST
from egress.policy.names import IP, Target, canonical_host, parse_host, parse_port
from egress.policy.patterns import split_port
from egress.policy.remedy import remedy
from egress.policy.rules import HOST_NAME, Policy, Protocol, Rule, RuleKind
from observability.events import Decision, Reason

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PORTS: Final = {
    "http": 80,
    "https": 443,
    "ws": 80,
    "wss": 443,
    "ftp": 21,
    "ssh": 22,
    "postgres": 5432,
    "postgresql": 5432,
}
_KINDS: Final = {
    RuleKind.EXACT: "this very host",
    RuleKind.SUFFIX: "the domain and all below it",
    RuleKind.SUBDOMAIN: "all below the domain",
    RuleKind.ANY: "any public host",
    RuleKind.ADDRESS: "an address rule",
    RuleKind.HOST: "the host",
}
_ABOVE_RULES: Final = (Reason.ADDRESS_SELF, Reason.ADDRESS_LOOPBACK, Reason.ADDRESS_HOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The decision on a connection that was not made."""

    target: Target
    decision: Decision
    rule: Rule | None
    """The rule that decides, or the one that came nearest."""
    reason: Reason | None
    """Why it is denied, or would be in `enforce`; None for a plain allow."""
    sentence: str


def explain(
    policy: Policy, where: str, surroundings: Surroundings, *, addresses: Sequence[IP] = (), server: str = ""
) -> Explanation:
    """What the policy says of a URL, `HOST:PORT` or `HOST` (port 443). Looks nothing up.

    `addresses`: what the name is taken to resolve to; without them the sentence says what is still checked. Raises
    ValueError, with advice, for text that names no host. `server`: its name, for the command in the advice.
    """
    target = read_target(where)
    known = addresses or _known_addresses(target, surroundings)
    verdict = decide(policy, target, known, surroundings) if known else decide_name(policy, target, surroundings)
    if isinstance(verdict, Deny):
        return Explanation(
            target=target,
            decision=Decision.DENY,
            rule=verdict.rule,
            reason=verdict.reason,
            sentence=f"{target.authority} is denied ({verdict.reason}): {verdict.detail}."
            + (_never(target, verdict, known, surroundings) or _advice(policy, target, verdict, server)),
        )
    return Explanation(
        target=target,
        decision=Decision.ALLOW if verdict.would_deny is None else Decision.REPORT,
        rule=verdict.rule,
        reason=verdict.would_deny,
        sentence=_allowed(policy, target, verdict)
        + _still_checked(target, verdict, bool(known))
        + _way(policy, verdict, surroundings),
    )


def read_target(where: str) -> Target:
    """The host and port that a person wrote: a URL, `HOST:PORT`, `HOST`, an address. Raises ValueError."""
    text, default = where.strip(), 443
    if scheme := _SCHEME.match(text):
        parts = urlsplit(text)
        text = parts.netloc.rpartition("@")[2]
        default = _PORTS.get(scheme[1].lower(), 443)
    host, port = split_port(text)
    canonical = canonical_host(host)
    ip = parse_host(f"[{canonical}]" if ":" in canonical else canonical)[1]
    return Target(host=canonical, ip=ip, port=default if port is None else parse_port(port))


def _known_addresses(target: Target, around: Surroundings) -> Sequence[IP]:
    if target.ip is not None:
        return (target.ip,)
    if target.host == HOST_NAME and around.host_gateway is not None:
        return (around.host_gateway,)
    return around.overrides.get((target.host, target.port), ())


def _allowed(policy: Policy, target: Target, verdict: Allow) -> str:
    rule = verdict.rule
    if rule is None:
        return f"{target.authority} is carried because of mode {policy.mode}; enforce would deny it ({verdict.would_deny})"
    ports = "its own ports" if rule.ports else "allowed_ports" if policy.ports else "the default ports"
    return f"{target.authority} is allowed by {rule.text} ({_KINDS[rule.kind]}; port {target.port} by {ports})"


def _still_checked(target: Target, verdict: Allow, known: bool) -> str:
    rule = verdict.rule
    address = ""
    if not known and target.host != HOST_NAME:
        private = rule is not None and rule.private
        address = f", if every address it resolves to is public{' or private' if private else ''}"
    if rule is not None and rule.protocol is Protocol.TCP:
        return f"{address}. What is inside is not checked (protocol: tcp)."
    inside = "TLS or plain HTTP" if target.ip is not None else f"TLS or plain HTTP for {target.host}"
    return f"{address}. The connection must carry {inside}."


def _way(policy: Policy, verdict: Allow, around: Surroundings) -> str:
    """That an allowed host is not all that some programs need."""
    opaque = verdict.rule is not None and verdict.rule.protocol is Protocol.TCP
    if policy.direct or opaque or around.standalone:
        return ""
    return " This holds if the program uses the proxy; else it needs `direct: allow` too."


def _never(target: Target, denied: Deny, known: Sequence[IP], around: Surroundings) -> str:
    """That not even a rule for this very target would open it, and why."""
    if denied.reason not in NAMED_BY_HOST or not known:
        return ""
    verdict = decide(parse_policy({"allowed_hosts": [target.authority]}), target, known, around)
    if isinstance(verdict, Deny) and verdict.reason in _ABOVE_RULES:
        instead = ""
        if verdict.reason is not Reason.ADDRESS_SELF and not around.standalone:
            rule = f"{{host: {HOST_NAME}, port: {target.port}, protocol: tcp}}"
            instead = f" If a service of this machine is meant: allowed_hosts: [{rule}]."
        return f" No rule would: {verdict.detail}.{instead}"
    return ""


def _advice(policy: Policy, target: Target, verdict: Deny, server: str) -> str:
    found = remedy(verdict.reason, target.host, target.port, port_named=policy.names_port(target.port))
    if server and found is not None:
        return f" To allow it: {found.for_people(server)}"
    match verdict.reason:
        case Reason.EMPTY_POLICY | Reason.HOST_NOT_ALLOWED | Reason.IP_NOT_ALLOWED:
            plain = policy.names_port(target.port) and target.host != HOST_NAME
            return f" To allow it, add {target.host if plain else target.authority} to allowed_hosts."
        case Reason.PORT_NOT_ALLOWED:
            return f" To allow it, add {target.authority} to allowed_hosts, or {target.port} to allowed_ports."
        case Reason.ADDRESS_PRIVATE | Reason.ADDRESS_CGNAT:
            return " To allow it, give the host's rule `private: true`, or name the address in a rule."
        case _:
            return ""
