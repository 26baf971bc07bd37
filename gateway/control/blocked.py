"""What was blocked, as its list shows it: what would let it through, and whether it is allowed by now. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from egress.policy.decide import Allow, Mode, Policy, Protocol, Surroundings, Target, decide, decide_name
from egress.policy.direct_ports import direct_ports
from egress.policy.explain import read_target
from egress.policy.liftable import NAMED_BY_HOST
from egress.policy.remedy import Remedy, refused, remedy
from gateway.control.keep_blocked import KeptBlocked, Place
from observability.events import EgressEvent, Reason, Via
from observability.history_queries import Blocked, Lookup

TCP_HELPS = frozenset({Reason.NOT_TLS, Reason.HEAD_TIMEOUT, Reason.SNI_MISSING})
LOOKED_UP = "looked up, and not asked of the proxy afterwards"


def blocked_json(row: Blocked) -> dict[str, Any]:
    """A blocked host; `reason`, `via` and `tool` are one text each, for display."""
    joined = {"reason": ", ".join(row.reasons), "via": ", ".join(row.via), "tool": ", ".join(row.tools)}
    return {**row.to_json(), **joined}


def as_blocked(row: Lookup) -> Blocked:
    """A name that was only looked up, as a row among what was blocked; it has no port."""
    return Blocked(
        backend=row.backend,
        host=row.host,
        port=0,
        count=row.count,
        first=row.first,
        last=row.last,
        reasons=(Reason.DIRECT_ATTEMPT,),
        detail=LOOKED_UP,
        via=(Via.DNS,),
        tools=row.tools,
    )


def advice(row: Blocked, policies: Mapping[str, Policy], around: Surroundings, kept: KeptBlocked) -> dict[str, Any]:
    """What a person can do about the row.

    `in_file`: its server is still configured. `allowed_now`: the policy allows by now what it denied then. `remedy`: the
    command or the line of the file that would let it through, empty where nothing would or nothing has to; `remedy_kind`:
    its `egress.policy.remedy.Kind`, or empty. `kept_blocked`: a person decided that it stays blocked, and it is.
    """
    found: dict[str, Any] = {"in_file": False, "allowed_now": False, "remedy": "", "remedy_kind": ""}
    policy = policies.get(row.backend)
    if policy is not None:
        verdicts = _verdicts(policy, row, around)
        found |= {"in_file": True, "allowed_now": _is_allowed_now(policy, row, verdicts)}
        lifts = _remedy(policy, row, allowed=any(isinstance(one, Allow) for one in verdicts))
        if lifts is not None and not found["allowed_now"]:
            found |= {"remedy": lifts.for_people(row.backend), "remedy_kind": lifts.kind}
    is_kept = Place(row.backend, row.host, row.port) in kept
    return {**found, "kept_blocked": is_kept and not found["allowed_now"]}


def refused_sentence(event: EgressEvent) -> str:
    """What a server was refused while it started, for a person."""
    place, advice = refused(event)
    return f"Since its start, {place} was refused ({event.reason}).{advice}"


def _verdicts(policy: Policy, row: Blocked, around: Surroundings) -> list[object]:
    """What the policy says of the row's host now; of a lookup, on each port that its server could connect to."""
    host = f"[{row.host}]" if ":" in row.host else row.host
    ports = (row.port,) if row.port else direct_ports(policy)
    try:
        targets = [read_target(f"{host}:{port}") for port in ports] if row.host else []
    except ValueError:  # an invalid host: the server chose the text
        return []
    return [_verdict(policy, target, around) for target in targets]


def _verdict(policy: Policy, target: Target, around: Surroundings) -> object:
    known = (target.ip,) if target.ip is not None else around.overrides.get((target.host, target.port), ())
    return decide(policy, target, known, around) if known else decide_name(policy, target, around)


def _is_allowed_now(policy: Policy, row: Blocked, verdicts: Collection[object]) -> bool:
    allowed = [one for one in verdicts if isinstance(one, Allow) and one.would_deny is None]
    if not allowed:
        return False
    if set(row.reasons) <= NAMED_BY_HOST:
        return True
    opaque = any(one.rule is not None and one.rule.protocol is Protocol.TCP for one in allowed)
    if set(row.reasons) <= TCP_HELPS:
        return opaque
    return set(row.reasons) == {Reason.DIRECT_ATTEMPT} and (policy.direct or opaque) and policy.mode is Mode.ENFORCE


def _remedy(policy: Policy, row: Blocked, *, allowed: bool) -> Remedy | None:
    named = policy.names_port(row.port)
    for word in row.reasons:
        reason = Reason(word) if word in tuple(Reason) else None
        found = remedy(reason, row.host, row.port, via=row.via, port_named=named, allowed=allowed)
        if found is not None:
            return found
    return None
