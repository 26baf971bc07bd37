"""What would let a refused connection through, for each reason: one place, so that every text gives the same advice.

Two readers get different words. A person reads a command or the line of the file. A model reads a request to ask the user:
it may have a shell, and a server chooses the host names, so a command in a tool's result could open the wall by itself.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from egress.policy.liftable import NAMED_BY_HOST, liftable
from egress.policy.rules import HOST_NAME
from observability.events import EgressEvent, Reason, Via

PASTED: Final = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:-]{0,252}")
"""Hosts that advice may repeat: people paste it into shells."""
_NEEDS_TCP: Final = frozenset({Reason.NOT_TLS, Reason.HEAD_TIMEOUT, Reason.SNI_MISSING})


class Kind(StrEnum):
    """What is missing."""

    HOST = "host"
    """A rule for the host."""
    TCP = "tcp"
    """A rule for the host with `protocol: tcp`."""
    PRIVATE = "private"
    """A rule for the host with `private: true`."""
    DIRECT = "direct"
    """`direct: allow`: the host is allowed, and the program does not use the proxy."""
    DIRECT_AND_HOST = "direct_and_host"
    """Both `direct: allow` and a rule."""
    THIS_MACHINE = "this_machine"
    """A rule for host.docker.internal: the server means the machine that it runs on."""
    PORTS = "ports"
    """A rule for a port that is known to the server alone."""
    HTTPS = "https"
    """Another version of the program, or a way around the proxy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What would let it through."""

    kind: Kind
    host: str
    port: int
    """0 where it is not known."""
    port_named: bool
    """A rule for the host alone has this port."""

    @property
    def target(self) -> str:
        """What to allow: `HOST`, or `HOST:PORT` where a rule for the host alone would not have the port."""
        if self.port_named or not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def rule(self) -> str:
        """The entry of `allowed_hosts`, as YAML."""
        host = '"' + self.host + '"' if ":" in self.host else self.host
        extra = {Kind.PRIVATE: "private: true"}.get(self.kind, "protocol: tcp")
        return f"{{host: {host or 'HOST'}, port: {self.port or 'PORT'}, {extra}}}"

    def for_people(self, server: str) -> str:
        """The command, or the line of the file, that lets it through."""
        match self.kind:
            case Kind.HOST:
                return f"stockade egress allow {server} {shlex.quote(self.target)}"
            case Kind.TCP | Kind.PRIVATE | Kind.THIS_MACHINE:
                return f"allowed_hosts: [{self.rule}]"
            case Kind.DIRECT:
                return "direct: allow"
            case Kind.DIRECT_AND_HOST:
                return f"direct: allow, and stockade egress allow {server} {shlex.quote(self.target)}"
            case Kind.PORTS:
                return f"allowed_hosts: [{self.rule}], with the host and port of the service"
            case Kind.HTTPS:
                return 'update the program, or direct: allow and env: {no_proxy: "*"}'

    def for_model(self, server: str) -> str:
        """A sentence that asks the model to ask the user; it has no command in it."""
        what = {
            Kind.HOST: f"to allow {self.target}",
            Kind.TCP: f"for the rule {self.rule}",
            Kind.PRIVATE: f"for the rule {self.rule}",
            Kind.THIS_MACHINE: f"for the rule {self.rule}",
            Kind.DIRECT: "for `direct: allow`, since this server does not use the proxy",
            Kind.DIRECT_AND_HOST: f"to allow {self.target} with `direct: allow`, since this server does not use the proxy",
            Kind.PORTS: f"for the rule {self.rule}",
            Kind.HTTPS: "to update the server, which sends https without CONNECT",
        }[self.kind]
        return f"If the task needs it, ask the user {what} (server {server})."


def remedy(
    reason: Reason | None,
    host: str,
    port: int,
    *,
    via: Collection[str] = (),
    port_named: bool = False,
    allowed: bool = False,
    standalone: bool = False,
) -> Remedy | None:
    """What would lift that denial; None where nothing does, or where the host is no text to repeat.

    `port_named`: the policy has that port for every host. `allowed`: its name is allowed, only the way was not.
    """
    if host and not PASTED.fullmatch(host):
        return None
    kind = _kind(reason, host, port, allowed=allowed, standalone=standalone)
    if kind is None:
        return None
    if Via.DNS in via:
        port = 0  # the name server's
    if kind is Kind.THIS_MACHINE:
        return Remedy(kind=kind, host=HOST_NAME, port=port, port_named=False)
    named = port_named and reason is not Reason.PORT_NOT_ALLOWED and host != HOST_NAME
    return Remedy(kind=kind, host=host, port=port, port_named=named)


def _kind(reason: Reason | None, host: str, port: int, *, allowed: bool, standalone: bool) -> Kind | None:
    if reason is Reason.HTTPS_WITHOUT_CONNECT:
        return Kind.HTTPS
    if reason is Reason.DIRECT_ATTEMPT:
        return _direct_kind(host, allowed)
    if not host:
        return None
    if reason in NAMED_BY_HOST:
        if liftable(reason, host, standalone=standalone):
            return Kind.HOST
        return Kind.THIS_MACHINE
    if reason in (Reason.ADDRESS_LOOPBACK, Reason.ADDRESS_HOST):
        return None if standalone else Kind.THIS_MACHINE
    if reason in (Reason.ADDRESS_PRIVATE, Reason.ADDRESS_CGNAT):
        return Kind.PRIVATE
    return Kind.TCP if reason in _NEEDS_TCP and port else None


def _direct_kind(host: str, allowed: bool) -> Kind:
    if not host:
        return Kind.PORTS
    if host == HOST_NAME or _is_loopback(host):
        return Kind.THIS_MACHINE
    return Kind.DIRECT if allowed else Kind.DIRECT_AND_HOST


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refused(event: EgressEvent) -> tuple[str, str]:
    """For a person: where a refused connection was to go, and the sentence (after a blank) with what would allow it."""
    host = event.host or event.destination
    with_port = event.port and event.host and event.via is not Via.DNS
    place = f"{host}:{event.port}" if with_port else host or "another port"
    found = remedy(event.reason, host, event.port, via=(event.via,), port_named=event.rule_port is not None)
    advice = f" To allow it: {found.for_people(event.backend)}" if found is not None else ""
    return place, advice
