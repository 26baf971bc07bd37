"""A backend as the egress knows it, and the origins (doors) that its connections come from."""

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
        """End it now."""

    def pending_bytes(self) -> int:
        """Bytes that wait in this process to be taken by either side."""


class Route(NamedTuple):
    """A yes with all that is said of it."""

    verdict: Allow
    address: IP
    """The one to dial."""
    address_text: str
    rule: str
    rule_port: int | None


class Flood(NamedTuple):
    """What is too frequent to be told one by one: counted, and told once a second."""

    door: str
    reason: Reason
    via: Via
    detail: str
    decision: Decision


class Verdicts:
    """What the policy said of a target before: the same question to the same pure function has the same answer.

    Asked with the same policy (it belongs to one) and the same surroundings only, and, for a verdict by address, with the
    same addresses: a changed lookup is another question.
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
        self.belong_to(around)
        key = (target.host, target.port)
        verdict = self.by_name.get(key)
        if verdict is None:
            verdict = self.by_name[key] = decide_name(self.policy, target, around)
        return verdict

    def address(self, target: Target, addresses: tuple[IP, ...], around: Surroundings) -> Allow | Deny:
        """`decide`."""
        self.belong_to(around)
        key = (target.host, target.port, addresses)
        verdict = self.by_address.get(key)
        if verdict is None:
            verdict = self.by_address[key] = decide(self.policy, target, addresses, around)
        return verdict

    def route(self, target: Target, addresses: tuple[IP, ...], around: Surroundings) -> Route | None:
        """What both verdicts together come to; None where one is a no."""
        self.belong_to(around)
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

    def belong_to(self, around: Surroundings) -> None:
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
        """Watches everything that it can make ready."""
        self.open = 0
        """Client connections open now."""
        self.asked = Counter[str]()
        """How many wait for a lookup, by name."""
        self.flooded = Counter[Flood]()
        """What is told once a second."""
        self.remarks = TokenBucket(REMARKS_RATE, REMARKS_RATE * 2)
        """Events about what happens inside a connection that has told of itself."""
        self.update(policy, budget, own_port)

    def update(self, policy: Policy, budget: Budget, own_port: int = 0) -> None:
        """Hold another policy from now on. `own_port` is one that it listens on itself, so nobody else does."""
        self.policy = policy
        self.mode = str(policy.mode)
        self.direct_ports = direct_ports(policy, own_port)
        self.budget = budget
        self.rate = TokenBucket(budget.rate, budget.rate * 2)
        self.verdicts = Verdicts(policy)
        self.dns_rate = TokenBucket(budget.dns_rate, budget.dns_rate * 2)

    @property
    def lookups(self) -> int:
        """Lookups under way: one a name, however many wait for it, but that the DNS of a joined network is asked by each."""
        return self.asked.total() if self.policy.join else len(self.asked)

    def may_look_up(self, host: str) -> bool:
        """Whether one more may wait for a lookup of that name."""
        return self.lookups < self.budget.lookups or (host in self.asked and not self.policy.join)

    @contextlib.contextmanager
    def looking_up(self, host: str) -> Iterator[None]:
        """Count one that waits."""
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
        """Count what would be too many events; the sweep tells of it. `detail` is one of a few fixed sentences."""
        self.flooded[Flood(door, reason, via, detail, decision)] += 1


class Origin:
    """Where connections come from: one door, or the one listener of the standalone proxy.

    Who is calling is this object itself: it hangs on the listening socket, there is nothing to forge.
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
        """A new attempt from here."""
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
        """Write into the attempt which rule carries it."""
        attempt.rule = verdict.rule.text if verdict.rule is not None else ""
        attempt.rule_port = self.backend.verdicts.rule_port(verdict.rule, attempt.port)

    def cut_all(self, reason: Reason) -> None:
        for live in list(self.live):
            live.abort_with(reason)


def named_port(policy: Policy, rule: Rule | None, port: int) -> int | None:
    """`port` if the rule or the policy names it."""
    own = rule is not None and any(port in allowed for allowed in rule.ports)
    return port if own or policy.names_port(port) else None
