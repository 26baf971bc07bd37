"""The door of a backend: makes listening sockets in an empty network namespace and hands them to the egress.

Theory of operation
-------------------
The door runs as process 1 of a container that owns the backend's network namespace. While it still has
NET_ADMIN it adds the AnyIP route (`egress.door.netns`) and binds its listeners, then gives up every privilege
(`egress.door.privileges`). From then on it only talks to the egress over `doors.sock` (`egress.door.passing`):

* its first message is the registration, with the listening sockets attached; the egress answers `{"ok": true}`,
  `{"wait": true}` (the gateway has not registered this door yet: try again) or `{"error": sentence}` (never);
* then the egress asks: `listen` for one more port, `unlisten`, `connect` to a port inside. Each answer carries
  the `id` of its question, and the socket, or `error`;
* unasked, it reports what the kernel refused, whenever that grew.

The door keeps its own copy of every listener. So when the egress dies no port becomes free for the backend to
take, and a new egress gets the same sockets again. No byte of the backend passes through this process.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from egress.door.netns import Refusals, add_anyip_route, parse_snmp, raise_loopback
from egress.door.notes import Note, NoteKind
from egress.door.passing import MAX_FDS, Message, close_all, receive_packet, send_packet
from egress.door.ports import DNS_PORT, OWN_PORTS, PROXY_PORT
from egress.door.privileges import PLAIN_USER, drop_privileges

BACKLOG = 1024
RETRY_S = 0.2
POLL_S = 2.0
CONNECT_TIMEOUT_S = 5.0
ANYWHERE = "0.0.0.0"  # noqa: S104 -- every address of a namespace that has only lo
MAX_LISTENERS = 2000
IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)  # Python 3.11 has no name for it; linux/in.h


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """Who this door is and what it listens on."""

    door: str
    nonce: str
    generation: int
    ports: tuple[int, ...]
    rendezvous: Path
    user: int = PLAIN_USER
    """Whom to become (uid and gid)."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> DoorSettings:
        """Read STOCKADE_DOOR, _NONCE, _GENERATION, _PORTS, _DOORS_DIR, _USER. Raises KeyError or ValueError."""
        ports = tuple(int(port) for port in environ.get("STOCKADE_PORTS", "80,443").split(",") if port)
        return cls(
            door=environ["STOCKADE_DOOR"],
            nonce=environ["STOCKADE_NONCE"],
            generation=int(environ.get("STOCKADE_GENERATION", "0")),
            ports=ports,
            rendezvous=Path(environ.get("STOCKADE_DOORS_DIR", "/run/stockade/doors")) / "doors.sock",
            user=int(environ.get("STOCKADE_USER", PLAIN_USER)),
        )


def make_listener(proto: str, address: str, port: int) -> socket.socket:
    """A listening socket (`tcp`) or a bound one (`udp`). Raises OSError, EADDRINUSE when the backend was first."""
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    try:
        if proto == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # No SO_REUSEADDR here: on UDP it would let the backend bind the same port and take the datagrams.
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind((address, port))
        if proto == "tcp":
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


@dataclass(slots=True)
class Listeners:
    """The sockets that this door holds, by (protocol, address, port)."""

    sockets: dict[tuple[str, str, int], socket.socket] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def open(self, proto: str, address: str, port: int) -> socket.socket:
        """The socket for that port, made now if need be. Raises OSError."""
        key = (proto, address, port)
        if key not in self.sockets:
            if len(self.sockets) >= MAX_LISTENERS:
                raise OSError(errno.EMFILE, f"this door has {MAX_LISTENERS} listeners already")
            self.sockets[key] = make_listener(proto, address, port)
        return self.sockets[key]

    def open_all(self, ports: Sequence[int]) -> None:
        """The proxy's port, DNS and the direct ports; what cannot be bound is noted, not raised."""
        wanted = [("tcp", "127.0.0.1", PROXY_PORT), ("udp", ANYWHERE, DNS_PORT), ("tcp", ANYWHERE, DNS_PORT)]
        wanted += [("tcp", ANYWHERE, port) for port in ports if port not in OWN_PORTS]
        for proto, address, port in wanted:
            try:
                self.open(proto, address, port)
            except OSError as error:
                self.failures.append(f"{proto} port {port}: {error.strerror}")

    def close(self, proto: str, port: int) -> None:
        """Stop listening on that port everywhere, here and in the egress: shutdown() reaches every copy."""
        for key in [key for key in self.sockets if key[0] == proto and key[2] == port]:
            sock = self.sockets.pop(key)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@dataclass(slots=True)
class Connect:
    """A connection into the namespace that is on its way."""

    id: int
    port: int
    sock: socket.socket
    deadline: float


class Door:
    """One door, for as long as its process lives."""

    def __init__(self, settings: DoorSettings, listeners: Listeners, snmp: TextIO, notes: Sequence[Note]) -> None:
        self.settings = settings
        self.listeners = listeners
        self.snmp = snmp
        self.notes = list(notes)
        self.reported = Refusals()
        self.own_failures = 0
        """Refused connections of ours (`connect`), which the kernel counts as well."""
        self.connecting: dict[socket.socket, Connect] = {}

    def run(self) -> None:
        """Register, serve, and do it again whenever the egress goes away. Returns when it is refused for good."""
        while True:
            try:
                egress = self.call()
            except OSError:
                time.sleep(RETRY_S)
                continue
            with egress, selectors.DefaultSelector() as selector:
                try:
                    answer = self.register(egress)
                    if "error" in answer:
                        print(f"door {self.settings.door}: refused: {answer['error']}", file=sys.stderr, flush=True)  # noqa: T201 -- the door has no log but its stderr
                        return
                    if answer.get("ok"):
                        self.serve(egress, selector)
                except (OSError, ValueError):
                    pass
                self.forget_connects()
            time.sleep(RETRY_S)

    def call(self) -> socket.socket:
        """Connect to the egress. Raises OSError while it is not there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(10)
            sock.connect(str(self.settings.rendezvous))
        except OSError:
            sock.close()
            raise
        return sock

    def register(self, egress: socket.socket) -> Message:
        """Hand over all listeners, in as many packets as it takes; the egress's answer. Raises OSError."""
        entries = list(self.listeners.sockets.items())
        chunks = [entries[i : i + MAX_FDS] for i in range(0, len(entries), MAX_FDS)] or [[]]
        for number, chunk in enumerate(chunks):
            message: Message = {
                "role": "door",
                "door": self.settings.door,
                "nonce": self.settings.nonce,
                "generation": self.settings.generation,
                "listeners": [list(key) for key, _ in chunk],
                "last": number == len(chunks) - 1,
                "notes": self.notes,
                "failures": self.listeners.failures,
            }
            send_packet(egress, message, [sock.fileno() for _, sock in chunk])
        return self.expect(egress)

    def expect(self, egress: socket.socket) -> Message:
        packet = receive_packet(egress)
        if packet is None:
            raise ConnectionResetError("the egress hung up")
        close_all(packet[1])
        return packet[0]

    def serve(self, egress: socket.socket, selector: selectors.BaseSelector) -> None:
        """Answer the egress until it hangs up; report refusals. Raises OSError or ValueError at its end."""
        selector.register(egress, selectors.EVENT_READ)
        next_poll = time.monotonic()
        while True:
            for key, _ in selector.select(max(0.0, next_poll - time.monotonic())):
                if key.fileobj is egress:
                    self.answer(egress, selector, self.expect(egress))
                else:
                    self.finish_connect(egress, selector, self.connecting[key.fileobj])  # type: ignore[index]  # only sockets are registered
            if time.monotonic() >= next_poll:
                self.expire_connects(egress, selector)
                if not self.connecting:  # or a refusal of ours would be counted before we know of it
                    self.report(egress)
                next_poll = time.monotonic() + POLL_S

    def answer(self, egress: socket.socket, selector: selectors.BaseSelector, question: Message) -> None:
        match question.get("op"):
            case "listen":
                self.listen(egress, question)
            case "unlisten":
                self.listeners.close(question.get("proto", "tcp"), int(question["port"]))
                send_packet(egress, {"id": question.get("id"), "ok": True})
            case "connect":
                self.start_connect(egress, selector, question)
            case "counters":
                self.report(egress)
                send_packet(egress, {"id": question.get("id"), "ok": True})
            case unknown:
                send_packet(egress, {"id": question.get("id"), "error": f"this door cannot {unknown}"})

    def listen(self, egress: socket.socket, question: Message) -> None:
        proto, port = question.get("proto", "tcp"), int(question["port"])
        address = question.get("address", ANYWHERE)
        try:
            sock = self.listeners.open(proto, address, port)
        except OSError as error:
            send_packet(egress, {"id": question.get("id"), "error": error.strerror, "errno": error.errno})
            return
        message = {"id": question.get("id"), "ok": True, "listener": [proto, address, port]}
        send_packet(egress, message, [sock.fileno()])

    def start_connect(self, egress: socket.socket, selector: selectors.BaseSelector, question: Message) -> None:
        """Dial 127.0.0.1:PORT in here without waiting for it."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        timeout_s = float(question.get("timeout_s", CONNECT_TIMEOUT_S))
        attempt = Connect(int(question["id"]), int(question["port"]), sock, time.monotonic() + timeout_s)
        code = sock.connect_ex(("127.0.0.1", attempt.port))
        if code not in (0, errno.EINPROGRESS):
            self.fail_connect(egress, attempt, code)
            return
        self.connecting[sock] = attempt
        selector.register(sock, selectors.EVENT_WRITE)

    def finish_connect(self, egress: socket.socket, selector: selectors.BaseSelector, attempt: Connect) -> None:
        selector.unregister(attempt.sock)
        del self.connecting[attempt.sock]
        code = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.fail_connect(egress, attempt, code)
            return
        with attempt.sock:
            send_packet(egress, {"id": attempt.id, "ok": True}, [attempt.sock.fileno()])

    def fail_connect(self, egress: socket.socket, attempt: Connect, code: int) -> None:
        attempt.sock.close()
        self.own_failures += 1
        send_packet(egress, {"id": attempt.id, "error": os.strerror(code), "errno": code})

    def expire_connects(self, egress: socket.socket, selector: selectors.BaseSelector) -> None:
        for attempt in [a for a in self.connecting.values() if a.deadline <= time.monotonic()]:
            selector.unregister(attempt.sock)
            del self.connecting[attempt.sock]
            self.fail_connect(egress, attempt, errno.ETIMEDOUT)
            self.own_failures -= 1

    def forget_connects(self) -> None:
        for attempt in self.connecting.values():
            attempt.sock.close()
        self.connecting.clear()

    def report(self, egress: socket.socket) -> None:
        """Tell how many attempts the kernel refused since the last report, if any."""
        self.snmp.seek(0)
        seen = parse_snmp(self.snmp.read())
        fails = max(0, seen.attempt_fails - self.reported.attempt_fails - self.own_failures)
        no_ports = seen.no_ports - self.reported.no_ports
        if fails or no_ports:
            send_packet(egress, {"counters": {"attempt_fails": fails, "no_ports": no_ports}})
        self.reported = seen
        self.own_failures = 0


def prepare_namespace() -> list[Note]:
    """Bring `lo` up and make every address local; what could not be done."""
    notes = []
    for step, kind, what in (
        (raise_loopback, NoteKind.NO_LOOPBACK, "lo was not brought up"),
        (add_anyip_route, NoteKind.NO_ROUTE, "no AnyIP route"),
    ):
        try:
            step()
        except OSError as error:
            notes.append(Note(kind, f"{what}: {error.strerror}"))
    return notes


def main() -> int:
    """Run the door of this container; 1 when it was refused."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # process 1 has no default action for it
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    settings = DoorSettings.from_environment(os.environ)
    notes = prepare_namespace()
    listeners = Listeners()
    listeners.open_all(settings.ports)
    with open("/proc/net/snmp", encoding="ascii") as snmp:
        notes += [Note(NoteKind.PRIVILEGES, text) for text in drop_privileges(settings.user)]
        Door(settings, listeners, snmp, notes).run()
    return 1


if __name__ == "__main__":
    sys.exit(main())
