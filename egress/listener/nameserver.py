"""The DNS server that a backend sees at every address: NXDOMAIN for everything, unless the policy opens direct use.

Well-behaved programs look a name up and then use the proxy all the same, so a lookup alone is no attempt: it is
held back a few seconds, and reported only when no request for that name came through the proxy. A name is also a
channel to the outside, so only names that the policy allows are ever looked up.

With `direct: allow` an allowed name is answered with its real addresses, and what was answered is remembered:
later a direct connection must fit. A name with a `protocol: tcp` rule gets an address of its own, made up
(198.18.0.0/15, RFC 2544), so that a connection to it says which name was meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from egress.connection.backend import Source
from egress.connection.client import Client, stream_of
from egress.connection.service import AnsweredNames, ConnectionService
from egress.connection.steps import ENDED, Phase, Refusal, Step
from egress.door.door import IP_PKTINFO
from egress.listener.dns import MalformedQuery, Query, build_refusal, build_response, parse_query
from egress.listener.local_names import answer_locally
from egress.net.stream import Stream
from egress.policy.decide import Allow, Deny, Protocol, Target, decide, decide_name
from egress.policy.names import IP
from observability.events import Reason, Via

READS_AT_ONCE = 32
HOLD_S = 5.0
"""How long a lookup waits for a proxied request of the same name."""
MAX_HELD = 256
MAX_NAME_KEPT = 128
MAX_ANSWERED = 512
MAX_TOLD = 64
"""Addresses remembered of one name: its owner may answer with others each time."""
REMEMBER_S = 900.0
TTL_S = 30
SYNTHETIC = ipaddress.ip_network("198.18.0.0/15")
MAX_SYNTHETIC = 4096
OTHER_NAMES = "(more names)"
LOOKED_UP = "looked up, and not asked of the proxy afterwards"
ALLOWED_BY_NAME = "{} is allowed, but this program does not use the proxy: `direct: allow` lets it connect by itself"


TRANSIENT = frozenset({errno.ECONNREFUSED, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.EHOSTUNREACH})
STREAM_IDLE_S = 10.0
STREAM_ANSWER_S = 30.0
"""For a lookup, and until the asker took the answer."""
Reply: TypeAlias = Callable[[bytes], None]

logger = logging.getLogger(__name__)


class NameServer:
    """One door's DNS."""

    def __init__(self, egress: ConnectionService, source: Source, hostname: str = "") -> None:
        """`hostname` is the machine's name as programs behind the door see it; empty when it is not known."""
        self.egress = egress
        self.source = source
        self.hostname = hostname
        self.poller = source.backend.poller
        self.sockets: list[socket.socket] = []
        self.held: dict[str, Lookup] = {}
        """Lookups not reported yet, by name."""
        self.proxied: dict[str, float] = {}
        """Names that came through the proxy lately."""
        self.answered: dict[str, dict[IP, tuple[float, str]]] = {}
        """Addresses answered to this backend: name → address → until when, and the joined network whose DNS knew it."""
        self.synthetic: dict[str, IP] = {}
        self.named: dict[IP, str] = {}

    # --- datagrams

    def listen(self, sock: socket.socket) -> None:
        """Serve a bound UDP socket that has IP_PKTINFO set."""
        sock.setblocking(False)
        self.poller.watch_listening(sock.fileno(), functools.partial(self.read_some, sock))
        self.sockets.append(sock)

    def read_some(self, sock: socket.socket) -> bool:
        """Answer what waits, up to a fair share of one turn of the loop; whether there may be more.

        The answer leaves from the address that was asked: IP_PKTINFO both ways (ip(7)).
        """
        for _ in range(READS_AT_ONCE):
            try:
                data, ancillary, _, client = sock.recvmsg(4096, socket.CMSG_SPACE(12))
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno is not None and error.errno in TRANSIENT:
                    continue
                self.drop_socket(sock, error)
                return False
            if not self.source.backend.dns_rate.take(self.egress.loop.time()):
                self.note_limit()
                continue
            asked = asked_address(ancillary)
            self.handle(data, str(client[0]), asked, functools.partial(send, sock, client, asked))
            if self.poller.others_wait():
                break
        return True

    def drop_socket(self, sock: socket.socket, error: OSError) -> None:
        self.poller.forget(sock.fileno())
        self.sockets.remove(sock)
        sock.close()
        self.source.recorder.notice("listener_failed", f"the DNS socket of {self.source.door} broke: {error}")

    def note_limit(self) -> None:
        self.source.backend.note_flood(self.source.door, Reason.LIMIT_DNS, Via.DNS)

    def handle(self, data: bytes, client: str, asked: str, reply: Reply) -> bool:
        """Answer one query through `reply`, now or after a lookup; False for what gets no answer."""
        try:
            query = parse_query(data)
        except MalformedQuery as error:
            self.source.backend.note_flood(self.source.door, Reason.BAD_REQUEST, Via.DNS, f"DNS: {error}")
            if error.rcode is not None:
                reply(build_refusal(data, error.rcode))
            return error.rcode is not None
        local = answer_locally(query, self.hostname)
        if local is not None:
            reply(local)
            return True
        if not query.is_host or not self.may_answer(query.name):
            self.note_lookup(query, client, asked)
            reply(build_response(query, nxdomain=True))
        elif query.qtype != "A":
            reply(build_response(query))
        elif query.name in self.synthetic or self.is_opaque(query.name):
            address = self.synthetic_address(query.name)
            reply(build_response(query, addresses=[address] if address else [], ttl=TTL_S))
        else:
            self.egress.tasks.create_task(self.resolve(query, reply))
        return True

    def may_answer(self, name: str) -> bool:
        """Whether the policy lets this name be used directly, on any port that the door listens on."""
        policy = self.source.backend.policy
        return any(
            isinstance(verdict, Allow)
            and (policy.direct or (verdict.rule is not None and verdict.rule.protocol is Protocol.TCP))
            for verdict in self.verdicts(name)
        )

    def is_opaque(self, name: str) -> bool:
        return any(
            isinstance(verdict, Allow) and verdict.rule is not None and verdict.rule.protocol is Protocol.TCP
            for verdict in self.verdicts(name)
        )

    def verdicts(self, name: str) -> list[Allow | Deny]:
        """What the policy says of this name on each port that the door listens on."""
        backend, surroundings = self.source.backend, self.egress.dialer.surroundings
        return [
            decide_name(backend.policy, Target(host=name, ip=None, port=port), surroundings)
            for port in backend.direct_ports
        ]

    # --- lookups that go out

    async def resolve(self, query: Query, reply: Reply) -> None:
        """Answer an allowed name with the addresses that the policy lets it have."""
        try:
            addresses = await self.addresses(query.name)
        except Exception:
            logger.exception("a lookup for %s failed", self.source.door)
            addresses = {}
        until = self.egress.loop.time() + REMEMBER_S
        if addresses:
            if len(self.answered) >= MAX_ANSWERED:
                self.answered.clear()
            told = self.answered.setdefault(query.name, {})
            if len(told) >= MAX_TOLD:
                told.clear()
            told.update((address, (until, network)) for address, network in addresses.items())
        reply(build_response(query, addresses=list(addresses), ttl=TTL_S))

    async def addresses(self, name: str) -> dict[IP, str]:
        """IPv4 addresses of `name` that may be dialled on at least one port, and the joined network that knows each."""
        backend, dialer = self.source.backend, self.egress.dialer
        found: dict[IP, str] = {}
        looked_up: tuple[Sequence[IP], str] | None = None
        for port in backend.direct_ports:
            target = Target(host=name, ip=None, port=port)
            if isinstance(decide_name(backend.policy, target, dialer.surroundings), Deny):
                continue
            override = dialer.surroundings.overrides.get((name, port))
            if not override and looked_up is None:
                result = await dialer.look_up(backend, target, self.source.attempt(via=Via.DNS))
                looked_up = ((), "") if isinstance(result, Refusal) else result
            known, network = (override, "") if override else looked_up or ((), "")
            if known and isinstance(decide(backend.policy, target, tuple(known), dialer.surroundings), Allow):
                found.update((address, network) for address in known if address.version == 4)
        return found

    # --- what was answered

    def told_of(self, name: str, address: IP) -> str | None:
        """The joined network (empty: none) where that address is, if this backend was answered with it for that name."""
        until, network = self.answered.get(name, {}).get(address, (0.0, ""))
        if until <= self.egress.loop.time() or (network and network not in self.source.backend.policy.join):
            return None
        return network

    def name_given(self, address: IP) -> str:
        """The name that was answered last with that address; empty when none was."""
        now = self.egress.loop.time()
        known = [(told[address][0], name) for name, told in self.answered.items() if address in told]
        until, name = max(known, default=(0.0, ""))
        return name if until > now else ""

    def synthetic_address(self, name: str) -> IP | None:
        """The address made up for a name; None when there are too many."""
        if name not in self.synthetic and len(self.synthetic) < MAX_SYNTHETIC:
            address = SYNTHETIC[len(self.synthetic) + 1]
            self.synthetic[name] = address
            self.named[address] = name
        return self.synthetic.get(name)

    # --- what was asked

    def note_lookup(self, query: Query, client: str, asked: str) -> None:
        """Hold a denied lookup back until it is clear whether the name was asked of the proxy too."""
        name = query.name if len(query.name) <= MAX_NAME_KEPT else query.name[:MAX_NAME_KEPT] + "…"
        now = self.egress.loop.time()
        if now - self.proxied.get(name, -HOLD_S) < HOLD_S:
            return
        if name not in self.held and len(self.held) >= MAX_HELD:
            name = OTHER_NAMES
        held = self.held.get(name)
        if held is None:
            is_host = query.is_host and name == query.name
            self.held[name] = Lookup(since=now, qtype=query.qtype, client=client, asked=asked, is_host=is_host)
        else:
            held.count += 1

    def note_proxied(self, name: str) -> None:
        """A request for that name came through the proxy: its lookups were no attempts."""
        self.held.pop(name, None)
        if len(self.proxied) >= MAX_HELD:
            self.proxied.clear()
        self.proxied[name] = self.egress.loop.time()

    def tick(self, now: float) -> None:
        """Report lookups that were held long enough; forget old answers."""
        for name, held in list(self.held.items()):
            if now - held.since >= HOLD_S:
                del self.held[name]
                self.tell(name, held)
        for name, told in list(self.answered.items()):
            left = {address: kept for address, kept in told.items() if kept[0] > now}
            if left:
                self.answered[name] = left
            else:
                del self.answered[name]

    def tell(self, name: str, held: Lookup) -> None:
        attempt = self.source.attempt(
            via=Via.DNS,
            method=held.qtype,
            host=name,
            port=53,
            client_address=held.client,
            destination=f"{held.asked}:53" if held.asked else "",
            count=held.count,
        )
        attempt.deny(
            Reason.DIRECT_ATTEMPT, ALLOWED_BY_NAME.format(name) if self.is_allowed(name, held) else LOOKED_UP
        )

    def is_allowed(self, name: str, held: Lookup) -> bool:
        """Whether the proxy would have carried a request for it."""
        return held.is_host and any(isinstance(verdict, Allow) for verdict in self.verdicts(name))

    def close(self) -> None:
        for sock in self.sockets:
            self.poller.forget(sock.fileno())
            sock.close()
        self.sockets.clear()
        for name, held in self.held.items():
            self.tell(name, held)
        self.held.clear()


@dataclass(slots=True)
class Lookup:
    """A denied lookup that was not reported yet."""

    since: float
    qtype: str
    client: str
    asked: str
    """The server address that the program meant to ask."""
    is_host: bool = False
    """It is a whole host name."""
    count: int = 1


def asked_address(ancillary: Sequence[tuple[int, int, bytes]]) -> str:
    """The destination of a datagram, from IP_PKTINFO (struct in_pktinfo: index, local address, destination)."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= 12:
            return socket.inet_ntoa(data[8:12])
    return ""


def send(sock: socket.socket, client: tuple[str, int], source: str, reply: bytes) -> None:
    """Send an answer from the address that was asked, if there is room."""
    if sock.fileno() < 0:
        return
    info = struct.pack("=I4s4s", 0, socket.inet_aton(source) if source else bytes(4), bytes(4))
    with contextlib.suppress(OSError):
        sock.sendmsg([reply], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, client)


def serve_dns_stream(egress: ConnectionService, source: Source, sock: socket.socket, address: str) -> None:
    """Serve DNS over TCP (RFC 7766): length-prefixed queries, one after the other."""
    asked = own_address(sock)
    stream = stream_of(egress, source, sock)
    if stream is not None:
        client = Client(egress, source, stream, address, Phase())
        client.await_step(answer_queries(client, asked))


async def answer_queries(client: Client, asked: str) -> Step:
    """Answer the queries of one connection until it ends, waits too long or asks too fast."""
    egress, source, stream = client.egress, client.source, client.stream
    while True:
        client.wait_at_most(STREAM_IDLE_S)
        data = await read_message(stream)
        names = egress.names_of(source)
        if data is None or names is None:
            return ENDED
        if not client.backend.dns_rate.take(egress.loop.time()):
            names.note_limit()
            return ENDED
        client.wait_at_most(STREAM_ANSWER_S)
        if not await answer_on_stream(names, stream, data, client.client_address, asked):
            return ENDED


async def answer_on_stream(names: AnsweredNames, stream: Stream, data: bytes, peer: str, asked: str) -> bool:
    """Answer one message; False when it is no valid query."""
    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def reply(answer: bytes) -> None:
        if not done.done():
            done.set_result(answer)

    if not names.handle(data, peer, asked, reply):
        return False
    answer = await done
    stream.write(struct.pack("!H", len(answer)) + answer)
    return await stream.drain()


async def read_message(stream: Stream) -> bytes | None:
    """One length-prefixed message; None at the end."""
    while len(stream.buffer) < 2 or len(stream.buffer) < 2 + int.from_bytes(stream.buffer[:2], "big"):
        if not await stream.more():
            return None
    size = int.from_bytes(stream.buffer[:2], "big")
    data = bytes(stream.buffer[2 : 2 + size])
    stream.skip(2 + size)
    return data


def own_address(sock: socket.socket) -> str:
    """The address that the client dialled; empty when the socket is closed already."""
    try:
        return str(sock.getsockname()[0])
    except OSError:
        return ""
