"""A backend as the egress knows it, and the sources (doors) that its connections come from."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from egress.journal.attempt import Attempt
from egress.journal.record import Recorder
from egress.net.limits import TokenBucket
from egress.net.poller import Poller
from egress.policy.budget import Budget
from egress.policy.decide import Allow, Deny, Policy, Rule, Surroundings, Target, decide, decide_name
from egress.policy.direct_ports import direct_ports
from egress.policy.names import IP, text_of
from observability.events import Decision, Reason, Via

MAX_VERDICTS = 1024
REMARKS_RATE = 20.0


class Live(Protocol):
    """A connection that is open now."""

    def tick(self, now: float) -> None:
        """Called once a second: look at deadlines."""

    def revalidate(self) -> None:
        """The policy changed: end it if it would not be allowed now."""

    def abort_with(self, reason: Reason) -> None:
        """End it now; `reason` goes on record."""

    def pending_bytes(self) -> int:
        """Bytes that wait in this process for either side to read them."""


class Route(NamedTuple):
    """An allow decision with the fields that its event needs."""

    verdict: Allow
    address: IP
    """The address to dial."""
    address_text: str
    rule: str
    rule_port: int | None


class Flood(NamedTuple):
    """What is too frequent to be reported one by one: counted, and reported once a second."""

    door: str
    reason: Reason
    via: Via
    detail: str
    decision: Decision


class DecisionCache:
    """Decisions of one policy, by target: a pure function gives the same answer to the same question.

    Valid for one set of surroundings; a decision by address is also keyed by the addresses, so that a changed lookup is
    decided again.
    """

    __slots__ = ("around", "by_address", "by_name", "policy", "routes", "rule_ports")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.around: Surroundings | None = None
        self.by_name: dict[tuple[str, int], Allow | Deny] = {}
        self.by_address: dict[tuple[str, int, tuple[IP, ...]], Allow | Deny] = {}
        self.routes: dict[tuple[str, int], tuple[tuple[IP, ...], Route | None]] = {}
        self.rule_ports: dict[tuple[str, int], int | None] = {}

    def name(self, target: Target, around: Surroundings) -> Allow | Deny:
        """`decide_name`."""
        self.invalidate_unless(around)
        key = (target.host, target.port)
        verdict = self.by_name.get(key)
        if verdict is None:
            verdict = self.by_name[key] = decide_name(self.policy, target, around)
        return verdict

    def address(self, target: Target, addresses: tuple[IP, ...], around: Surroundings) -> Allow | Deny:
        """`decide`."""
        self.invalidate_unless(around)
        key = (target.host, target.port, addresses)
        verdict = self.by_address.get(key)
        if verdict is None:
            verdict = self.by_address[key] = decide(self.policy, target, addresses, around)
        return verdict

    def route(self, target: Target, addresses: tuple[IP, ...], around: Surroundings) -> Route | None:
        """The route that both decisions allow, None where one denies it."""
        self.invalidate_unless(around)
        key = (target.host, target.port)
        known = self.routes.get(key)
        if known is None or known[0] != addresses:
            known = self.routes[key] = addresses, self.find_route(target, addresses, around)
        return known[1]

    def find_route(self, target: Target, addresses: tuple[IP, ...], around: Surroundings) -> Route | None:
        if isinstance(self.name(target, around), Deny):
            return None
        verdict = self.address(target, addresses, around)
        if isinstance(verdict, Deny) or verdict.address is None:
            return None
        rule = verdict.rule.text if verdict.rule is not None else ""
        rule_port = self.rule_port(verdict.rule, target.port)
        return Route(verdict, verdict.address, text_of(verdict.address), rule, rule_port)

    def rule_port(self, rule: Rule | None, port: int) -> int | None:
        """`port` if the policy names it, so that it is bounded as a label."""
        key = (rule.text if rule is not None else "", port)
        if key not in self.rule_ports:
            if len(self.rule_ports) >= MAX_VERDICTS:
                self.rule_ports.clear()
            self.rule_ports[key] = named_port(self.policy, rule, port)
        return self.rule_ports[key]

    def invalidate_unless(self, around: Surroundings) -> None:
        full = len(self.by_name) >= MAX_VERDICTS or len(self.by_address) >= MAX_VERDICTS
        if around is not self.around or full:
            self.around = around
            self.by_name.clear()
            self.by_address.clear()
            self.routes.clear()


class Backend:
    """One backend's policy, budgets and counts. Its doors share them."""

    def __init__(self, name: str, policy: Policy, budget: Budget, poller: Poller, own_port: int = 0) -> None:
        self.name = name
        self.poller = poller
        """Watches every descriptor whose readiness this backend can cause."""
        self.open = 0
        """Client connections open now."""
        self.asked = Counter[str]()
        """How many connections wait for a lookup, by name."""
        self.flooded = Counter[Flood]()
        """What is reported once a second, counted."""
        self.remarks = TokenBucket(REMARKS_RATE, REMARKS_RATE * 2)
        """Limits events about what happens inside a connection that has an event already."""
        self.update(policy, budget, own_port)

    def update(self, policy: Policy, budget: Budget, own_port: int = 0) -> None:
        """Replace the policy. `own_port`: the backend listens there itself, so its door does not."""
        self.policy = policy
        self.mode = str(policy.mode)
        self.direct_ports = direct_ports(policy, own_port)
        self.budget = budget
        self.rate = TokenBucket(budget.rate, budget.rate * 2)
        self.decisions = DecisionCache(policy)
        self.dns_rate = TokenBucket(budget.dns_rate, budget.dns_rate * 2)

    @property
    def lookups(self) -> int:
        """DNS lookups in flight. Waiters for one name share a lookup, except on joined networks."""
        return self.asked.total() if self.policy.join else len(self.asked)

    def may_look_up(self, host: str) -> bool:
        """Whether another connection may wait for a lookup of that name."""
        return self.lookups < self.budget.lookups or (host in self.asked and not self.policy.join)

    @contextlib.contextmanager
    def looking_up(self, host: str) -> Iterator[None]:
        """Count a connection that waits for a lookup."""
        self.asked[host] += 1
        try:
            yield
        finally:
            self.asked[host] -= 1
            if not self.asked[host]:
                del self.asked[host]

    def note_flood(
        self,
        door: str,
        reason: Reason,
        via: Via = Via.PROXY,
        detail: str = "refused at once: too many",
        decision: Decision = Decision.DENY,
    ) -> None:
        """Count what would be too many events; the sweep reports the total. `detail` is one of a few fixed sentences."""
        self.flooded[Flood(door, reason, via, detail, decision)] += 1


class Source:
    """Where connections come from: one door, or the one listener of the standalone proxy.

    It belongs to the listening socket, so it identifies the caller, and there is nothing to forge.
    """

    def __init__(self, backend: Backend, door: str, recorder: Recorder) -> None:
        self.backend = backend
        self.door = door
        self.recorder = recorder
        self.live: set[Live] = set()
        self.tasks: set[asyncio.Task[Any]] = set()

    def attempt(
        self,
        *,
        via: Via = Via.PROXY,
        method: str = "",
        host: str = "",
        port: int = 0,
        client_address: str = "",
        destination: str = "",
        count: int = 1,
    ) -> Attempt:
        """A new attempt from this source."""
        return Attempt(
            self.recorder,
            backend=self.backend.name,
            door=self.door,
            via=via,
            mode=self.backend.mode,
            method=method,
            host=host,
            port=port,
            client_address=client_address,
            destination=destination,
            count=count,
        )

    def note_allow(self, attempt: Attempt, verdict: Allow) -> None:
        """Record in the attempt which rule allows it."""
        attempt.rule = verdict.rule.text if verdict.rule is not None else ""
        attempt.rule_port = self.backend.decisions.rule_port(verdict.rule, attempt.port)

    def cut_all(self, reason: Reason) -> None:
        for live in list(self.live):
            live.abort_with(reason)


def named_port(policy: Policy, rule: Rule | None, port: int) -> int | None:
    """`port` if the rule or the policy names it."""
    own = rule is not None and any(port in allowed for allowed in rule.ports)
    return port if own or policy.names_port(port) else None
