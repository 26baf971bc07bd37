"""The egress as a whole: backends, doors, the sweep, the end.

It owns every task and every listener, and is what the gateway reaches over `egress.service.control`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from egress.connection.backend import Backend, Live, Source
from egress.connection.dialer import Dialer
from egress.door.ports import DNS_PORT, PROXY_PORT
from egress.doors.sessions import DoorError, Doors, ListenerKey
from egress.doors.states import DoorState
from egress.doors.ticket import Ticket
from egress.journal.record import Recorder
from egress.listener.direct import serve_direct
from egress.listener.http_fast_path import refuse_connection, serve_proxy
from egress.listener.nameserver import NameServer, serve_dns_stream
from egress.net.accept import Acceptor
from egress.net.limits import FdReserve, connection_budget
from egress.policy.budget import Budget
from egress.policy.decide import Policy, PolicyError, parse_policy
from egress.policy.names import IP
from egress.service.control import PoliciesRefused
from egress.service.memory import MOST_WAITING, too_much
from egress.service.surroundings import parse_around
from observability.events import Reason, Severity, Via

logger = logging.getLogger(__name__)

SWEEP_S = 1.0
DRAIN_S = 5.0
HOSTNAME_LENGTH = 12
"""An engine names a container's machine by the first digits of its ID; a backend shares the name of its door's."""

Serve = Callable[["Egress", Source, socket.socket, str], None]
"""Serves an admitted connection, which came from the address given, from now on."""
VIA: Mapping[Serve, Via] = {serve_direct: Via.DIRECT, serve_dns_stream: Via.DNS}


class Egress:
    """Everything that one egress process does."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tasks: asyncio.TaskGroup,
        recorder: Recorder,
        dialer: Dialer,
        *,
        own: frozenset[IP] = frozenset(),
        log_dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        self.loop = loop
        self.tasks = tasks
        self.recorder = recorder
        self.dialer = dialer
        self.own = own
        self.log_dropped = log_dropped
        self.generation = 0
        self.backends: dict[str, Backend] = {}
        self.sources: set[Source] = set()
        self.names: dict[Source, NameServer] = {}
        self.reserve = FdReserve()
        self.most = connection_budget()
        self.open = 0
        """Client connections open now, over all backends."""
        self.most_waiting = MOST_WAITING
        self.shed = 0
        self.refused = 0
        self.accepted = 0
        self.draining = False
        self.matching = asyncio.Lock()
        self.doors = Doors(self.open_door, self.door_state)
        self.on_door_state: Callable[[str, DoorState, str], None] = lambda door, state, detail: None
        self.started = time.time()

    # --- what the gateway asks for

    def apply(self, message: Mapping[str, Any]) -> None:
        """Replace all policies and the surroundings at once, then close what is not allowed any more.

        Raises PoliciesRefused, and nothing has changed then.
        """
        policies: dict[str, tuple[Policy, Budget]] = {}
        problems: list[dict[str, Any]] = []
        for name, block in message["backends"].items():
            try:
                policy = parse_policy(block)
                policies[name] = (policy, budget_of(policy))
            except PolicyError as error:
                problems += [
                    {"backend": name, "path": list(problem.path), "message": problem.message}
                    for problem in error.problems
                ]
        try:
            around = parse_around(message.get("surroundings") or {}, self.own)
        except (ValueError, TypeError, AttributeError) as error:
            problems.append({"backend": "", "path": ["surroundings"], "message": str(error)})
        if problems:
            raise PoliciesRefused(problems)
        self.dialer.surroundings = around.surroundings
        self.dialer.parent, self.dialer.parents = around.parent, around.parents
        self.generation = int(message.get("generation", 0))
        self.hold(policies, around.own_ports)

    def hold(self, policies: Mapping[str, tuple[Policy, Budget]], own_ports: Mapping[str, int]) -> None:
        """Replace all policies, and revalidate every connection."""
        for name, (policy, budget) in policies.items():
            own_port = own_ports.get(name, 0)
            if name in self.backends:
                self.backends[name].update(policy, budget, own_port)
            else:
                self.backends[name] = Backend(name, policy, budget, self.dialer.pollers.of(name), own_port)
        for name in set(self.backends) - set(policies):
            self.backends.pop(name).update(*nothing_allowed())
        for source in self.sources:
            current = self.backends.get(source.backend.name)
            if current is not None:
                source.backend = current
            for live in list(source.live):
                live.revalidate()
        self.tasks.create_task(self.match_listeners())

    async def match_listeners(self) -> None:
        """Let each door listen on the ports that its policy names; one push after the other, so that the last one holds."""
        async with self.matching:
            for door, session in list(self.doors.sessions.items()):
                backend = self.backends.get(session.ticket.backend)
                if backend is None or session.life is None:
                    continue
                try:
                    await self.doors.listen(door, set(backend.direct_ports))
                except DoorError as error:
                    logger.info("door %s: %s", door, error)
                except Exception:
                    logger.exception("the listeners of door %s could not be matched", door)

    def status(self) -> dict[str, Any]:
        """Counts, for the gateway."""
        return {
            "generation": self.generation,
            "uptime_s": round(time.time() - self.started, 3),
            "seq": self.recorder.seq,
            "open": self.open,
            "accepted": self.accepted,
            "refused": self.refused,
            "shed": self.shed,
            "log_lines_dropped": self.log_dropped(),
            "doors": {name: session.ticket.backend for name, session in self.doors.sessions.items()},
            "backends": {
                name: {"open": backend.open, "lookups": backend.lookups, "mode": backend.mode}
                for name, backend in self.backends.items()
            },
        }

    # --- doors

    def open_door(self, ticket: Ticket) -> DoorSource:
        backend = self.backends.get(ticket.backend)
        if backend is None:
            backend = self.backends[ticket.backend] = Backend(
                ticket.backend, *nothing_allowed(), self.dialer.pollers.of(ticket.backend)
            )
        return DoorSource(self, backend, ticket)

    def door_state(self, ticket: Ticket, state: DoorState, detail: str) -> None:
        if state is DoorState.LISTENER_FAILED:
            message = f"the door of {ticket.backend} could not listen: {detail}; direct connections to it stay inside"
            self.recorder.notice("listener_taken", message, severity=Severity.ERROR, backend=ticket.backend)
        elif state in (DoorState.NO_ROUTE, DoorState.NOTE):
            message = f"the door of {ticket.backend}: {detail}"
            self.recorder.notice("door_note", message, severity=Severity.WARNING, backend=ticket.backend)
        self.on_door_state(ticket.door, state, detail)

    # --- connections

    def admit(self, source: Source, sock: socket.socket, address: str, serve: Serve) -> bool:
        """Take over a new connection; False when its listener should rest a little."""
        backend = source.backend
        self.accepted += 1
        if backend.open >= min(backend.budget.connections, self.share()) or self.open >= self.most:
            return self.turn_away(source, sock, Reason.LIMIT_CONNECTIONS, serve)
        if not backend.rate.take(self.loop.time()):
            return self.turn_away(source, sock, Reason.LIMIT_RATE, serve)
        backend.open += 1
        self.open += 1
        serve(self, source, sock, address)
        return True

    def share(self) -> int:
        """The most that one backend may hold while descriptors are scarce: half of the free slots."""
        scarce = self.open * 2 > self.most and len(self.backends) > 1
        return max(8, (self.most - self.open) // 2 + 1) if scarce else self.most

    def turn_away(self, source: Source, sock: socket.socket, reason: Reason, serve: Serve) -> bool:
        self.refused += 1
        source.backend.note_flood(source.door, reason, VIA.get(serve, Via.PROXY))
        if serve is serve_proxy:
            refuse_connection(sock, source, reason)
        sock.close()
        return False

    def released(self, backend: Backend) -> None:
        """A connection that was admitted has ended."""
        backend.open -= 1
        self.open -= 1

    # --- names

    def names_of(self, source: Source) -> NameServer | None:
        """The name server of that door; None in the standalone proxy."""
        return self.names.get(source)

    # --- time

    async def sweep(self) -> None:
        """Once a second, whatever happens: deadlines of everything, and what was counted meanwhile."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.sweep_once(self.loop.time())
            except Exception:
                logger.exception("a sweep failed")

    def sweep_once(self, now: float) -> None:
        for source in list(self.sources):
            for live in list(source.live):
                tick(live, now)
        for names in list(self.names.values()):
            names.tick(now)
        for backend in list(self.backends.values()):
            self.tell_floods(backend)
        self.dialer.pollers.keep({*self.backends, *(source.backend.name for source in self.sources)})
        self.relieve_memory()

    def relieve_memory(self) -> None:
        """Cut what makes too many bytes wait for peers that do not read them."""
        cut = Counter[str]()
        for backend, live in list(too_much(self.sources, self.most_waiting)):
            live.abort_with(Reason.LIMIT_CONNECTIONS)
            cut[backend] += 1
        for backend, count in cut.items():
            message = (
                f"{count} connections of {backend} were cut: too many bytes waited for peers that do not read them"
            )
            self.recorder.notice("memory_short", message, severity=Severity.WARNING, backend=backend, count=count)

    def tell_floods(self, backend: Backend) -> None:
        floods, backend.flooded = backend.flooded, Counter()
        for flood, count in floods.items():
            attempt = Source(backend, flood.door, self.recorder).attempt(via=flood.via, count=count)
            attempt.count_only(flood.reason, flood.detail, flood.decision)

    async def drain(self, drain_s: float = DRAIN_S) -> None:
        """Accept nothing new, let what runs finish for `drain_s`, then cut the rest."""
        self.draining = True
        for source in list(self.sources):
            if isinstance(source, DoorSource):
                source.stop_accepting()
        deadline = self.loop.time() + drain_s
        while any(source.live for source in self.sources) and self.loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for source in list(self.sources):
            source.cut_all(Reason.SHUTDOWN)
        await asyncio.sleep(0)

    def close(self) -> None:
        """End every door and release all resources."""
        self.doors.close()
        self.reserve.close()


class DoorSource(Source):
    """A door's listeners and connections."""

    def __init__(self, egress: Egress, backend: Backend, ticket: Ticket) -> None:
        super().__init__(backend, ticket.door, egress.recorder)
        self.egress = egress
        self.acceptors: dict[ListenerKey, Acceptor] = {}
        self.name_server = NameServer(egress, self, ticket.container[:HOSTNAME_LENGTH])
        egress.sources.add(self)
        egress.names[self] = self.name_server

    def add(self, key: ListenerKey, sock: socket.socket) -> None:
        """Serve a listening socket, by what it is for."""
        try:
            self.listen(key, sock)
        except OSError as error:
            sock.close()
            self.listener_failed(key, error)

    def listen(self, key: ListenerKey, sock: socket.socket) -> None:
        """Raises OSError when it cannot be watched."""
        proto, _, port = key
        if proto == "udp":
            self.name_server.listen(sock)
            return
        serve: Serve = {PROXY_PORT: serve_proxy, DNS_PORT: serve_dns_stream}.get(port, serve_direct)
        self.acceptors[key] = Acceptor(
            self.backend.poller,
            sock,
            self.egress.reserve,
            on_connection=lambda connection, address: self.egress.admit(self, connection, address, serve),
            on_failure=lambda error: self.listener_failed(key, error),
            on_shed=self.note_shed,
        )

    def note_shed(self) -> None:
        self.egress.shed += 1
        self.backend.note_flood(self.door, Reason.LIMIT_CONNECTIONS)

    def listener_failed(self, key: ListenerKey, error: OSError) -> None:
        self.acceptors.pop(key, None)
        message = f"the listener {key[0]} {key[2]} of {self.door} broke and was closed: {error}"
        self.recorder.notice("listener_failed", message, severity=Severity.ERROR, backend=self.backend.name)

    def remove(self, proto: str, port: int) -> None:
        for key in [key for key in self.acceptors if key[0] == proto and key[2] == port]:
            self.acceptors.pop(key).close()

    def counted(self, attempt_fails: int, no_ports: int) -> None:
        """The kernel refused attempts on ports where nothing listens."""
        for method, count in (("TCP", attempt_fails), ("UDP", no_ports)):
            if count > 0:
                attempt = self.attempt(via=Via.DIRECT, method=method, count=count)
                attempt.count_only(Reason.DIRECT_ATTEMPT, f"{method} to ports where nothing listens")

    def stop_accepting(self) -> None:
        for acceptor in self.acceptors.values():
            acceptor.close()
        self.acceptors.clear()

    def close(self) -> None:
        """The door is gone: close everything that came through it."""
        self.stop_accepting()
        self.name_server.close()
        self.egress.names.pop(self, None)
        self.cut_all(Reason.DOOR_CLOSED)
        for task in list(self.tasks):
            task.cancel()
        self.egress.sources.discard(self)


def tick(live: Live, now: float) -> None:
    """Let a connection check its deadlines; a failure ends that connection and no other."""
    try:
        live.tick(now)
    except Exception:
        logger.exception("a connection could not be looked at, and is cut")
        live.abort_with(Reason.IDLE_TIMEOUT)


def nothing_allowed() -> tuple[Policy, Budget]:
    """The policy of a backend before its own has arrived, and after it was removed."""
    return parse_policy({}), Budget()


def budget_of(policy: Policy) -> Budget:
    """The policy's limits over the defaults."""
    given = {
        spec.name: value
        for spec in dataclasses.fields(policy.limits)
        if (value := getattr(policy.limits, spec.name)) is not None
    }
    return dataclasses.replace(Budget(), **given)
