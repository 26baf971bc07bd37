"""The `network:` block of a server: shape and schema here, meaning in `egress.policy.decide`, which checks every block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr, StrictBool, WithJsonSchema, model_validator

from egress.policy.budget import Budget
from egress.policy.decide import Policy, PolicyError, Protocol, parse_policy
from egress.policy.direct_ports import direct_ports
from registry.model.errors import Finding, Invalid

PORTS_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 65535},
        {"type": "string", "pattern": "^\\d+(-\\d+)?$", "examples": ["8000-8010"]},
    ]
}
HOST_SCHEMA = {
    "anyOf": [
        {
            "type": "string",
            "examples": ["api.github.com", ".githubusercontent.com", "*.example.com", "db.internal:5432"],
        },
        {
            "type": "object",
            "properties": {
                "host": {
                    "type": "string",
                    "description": "A host, a suffix (.example.com), an address or a CIDR range.",
                },
                "port": {**PORTS_SCHEMA, "description": "The port of this host, instead of `allowed_ports`."},
                "ports": {
                    "type": "array",
                    "items": PORTS_SCHEMA,
                    "description": "The ports of this host, instead of `allowed_ports`.",
                },
                "private": {
                    "type": "boolean",
                    "description": "True: the host's name may lead to a private address.",
                },
                "protocol": {
                    "enum": ["tcp"],
                    "description": "`tcp`: opaque bytes to one host and port, such as a database.",
                },
            },
            "required": ["host"],
            "additionalProperties": False,
        },
    ]
}


def bound(kind: str, default: float, description: str) -> dict[str, object]:
    return {"type": kind, "exclusiveMinimum": 0, "default": default, "description": description}


BUDGET = Budget()
LIMITS_SCHEMA = {
    "type": "object",
    "properties": {
        "connections": bound("integer", BUDGET.connections, "Connections open at once."),
        "rate": bound("number", BUDGET.rate, "New connections and requests a second; twice that in a burst."),
        "dns_rate": bound("number", BUDGET.dns_rate, "DNS queries a second; twice that in a burst."),
        "lookups": bound("integer", BUDGET.lookups, "Lookups under way at once."),
        "head_timeout_s": bound("number", BUDGET.head_timeout_s, "The longest that a request's head may take."),
        "idle_timeout_s": bound("number", BUDGET.idle_timeout_s, "How long a connection may stay without a byte."),
    },
    "additionalProperties": False,
}
LimitsBlock = Annotated[Mapping[str, Any], WithJsonSchema(LIMITS_SCHEMA)]
HostEntry = Annotated[Any, WithJsonSchema(HOST_SCHEMA)]
PortEntry = Annotated[Any, WithJsonSchema(PORTS_SCHEMA)]


class Network(BaseModel):
    """What a server may connect to. What is not named is not allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    isolated: StrictBool = True
    """False: an ordinary network, no policy, nothing observed. Default true."""
    allowed_hosts: tuple[HostEntry, ...] = ()
    """Hosts it may reach, on ports 80 and 443 unless said otherwise: `api.github.com`, `.github.com` (with all
    below it), `*.github.com` (only those), `db.internal:5432`, an address, a CIDR range, `host.docker.internal`."""
    allowed_ports: tuple[PortEntry, ...] = ()
    """The ports of all allowed hosts, instead of 80 and 443."""
    mode: Literal["enforce", "report", "learn"] = "enforce"
    """`enforce`; `report` (allow, but report what would be denied); `learn` (allow public addresses and record them)."""
    direct: Literal["deny", "allow"] = "deny"
    """`allow`: connections of programs that ignore the proxy are carried too, under the same policy."""
    join: tuple[str, ...] = ()
    """Docker networks on which allowed names may be reached."""
    limits: LimitsBlock = {}
    """Bounds on connections, rates and idle time."""

    _block: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def keep_block(cls, data: Any, handler: Any) -> Any:
        model = handler(data)
        if isinstance(data, dict):
            model._block = dict(data)
        return model

    @property
    def block(self) -> dict[str, Any]:
        """The block as it was written, in JSON's types: what `egress.policy.decide.parse_policy` takes."""
        return dict(self._block) if self._block else self.model_dump(mode="json", exclude_unset=True)

    @property
    def policy(self) -> Policy:
        """The policy that the block means."""
        return parse_policy(self.block)


SPECIAL_NETWORKS = frozenset({"host", "none", "bridge", "default", "nat", "ingress", "docker_gwbridge"})
"""Reserved by the engine: the host's own network, no network, or one shared by all containers."""
NETWORK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
OUR_NETWORKS = "stockade-"
"""The prefix of the networks for the egress and for backends without isolation."""


def check_block(block: Mapping[str, Any]) -> None:
    """Raises Invalid with everything that the policy finds wrong, and for networks that no server joins."""
    try:
        parse_policy(block)
    except PolicyError as error:
        findings = [
            Finding(tuple(problem.path), problem.message, at_key=problem.at_key) for problem in error.problems
        ]
        raise Invalid.all(findings) from None
    if unfit := [
        finding for index, name in enumerate(block.get("join", ())) if (finding := check_joined(index, name))
    ]:
        raise Invalid.all(unfit)


def check_joined(index: int, name: str) -> Finding | None:
    """What is wrong with an item of `join`, if anything."""
    where, hint = (
        ("join", index),
        "Name the network of the workloads, such as myapp_default (see `docker network ls`)",
    )
    if name.lower() in SPECIAL_NETWORKS:
        return Finding(where, f"{name!r} is a network of the engine itself, which no server joins", hint)
    if not NETWORK_NAME.fullmatch(name):
        return Finding(where, f"{name!r} is not the name of a network", hint)
    if name.startswith(OUR_NETWORKS):
        return Finding(where, f"{name!r} is a network of Stockade itself, which no server joins", hint)
    return None


def host_text(entry: Any) -> str:
    """The host of an `allowed_hosts` entry, without its port."""
    text = str(entry.get("host", "")) if isinstance(entry, Mapping) else str(entry)
    host, colon, port = text.rpartition(":")
    return host if colon and port.isdecimal() and (":" not in host or host.endswith("]")) else text


def carries_directly(policy: Policy, port: int) -> bool:
    """Whether connections to that port that ignore the proxy would be carried, so that the door must listen there."""
    opaque = any(port in ports for rule in policy.rules if rule.protocol is Protocol.TCP for ports in rule.ports)
    return opaque or (policy.direct and port in direct_ports(policy))


def covers(item: Any, port: int) -> bool:
    """Whether an entry of `allowed_ports` has the port."""
    first, _, last = str(item).partition("-")
    return first.isdecimal() and int(first) <= port <= int(last if last.isdecimal() else first)
