"""A private network namespace in which every address is ours, a DNS zone of ours, and a trap on every address.

Inside it, whatever the proxy connects to arrives here with the address that it dialled, and whatever it looks up
is asked here. Needs root; run through `unshare --net --mount`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import h11

from egress.door.netns import NETLINK_ROUTE, acknowledgement, raise_loopback, route_request
from egress.listener.dns import MalformedQuery, Query, build_response, parse_query
from egress.policy.names import IP, parse_host

NAMESERVER = "127.0.0.53"
METHOD = re.compile(rb"[A-Z]{3,20} ")
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def make_every_address_local(host_addresses: Sequence[str]) -> None:
    """AnyIP for both families; `host_addresses` become addresses of the machine itself."""
    raise_loopback()
    default4 = route_request(socket.if_nametoindex("lo"))
    add_route(default4)
    add_route(default4[:16] + bytes([socket.AF_INET6]) + default4[17:])
    for text in host_addresses:
        destination = b"\x08\0\x01\0" + socket.inet_aton(text)  # RTA_DST
        body = default4[16:17] + b"\x20" + default4[18:] + destination
        add_route((16 + len(body)).to_bytes(4, "little") + default4[4:16] + body)


def add_route(request: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        sock.send(request)
        assert acknowledgement(sock.recv(4096)) == 0


def use_our_nameserver() -> None:
    """Give this mount namespace its own resolv.conf, hosts and nsswitch.conf."""
    folder = Path(tempfile.mkdtemp())
    files = {
        "resolv.conf": f"nameserver {NAMESERVER}\noptions timeout:2 attempts:1\n",
        "hosts": "",
        "nsswitch.conf": "hosts: files dns\n",
    }
    for name, text in files.items():
        if not (place := Path("/etc", name)).exists():
            place.touch()
        (folder / name).write_text(text)
        subprocess.run(["mount", "--bind", str(folder / name), str(place.resolve())], check=True)


class Nameserver(asyncio.DatagramProtocol):
    """Answers from a zone and keeps what was asked. `=NAME` instead of addresses is an alias."""

    def __init__(self, zone: Mapping[str, Sequence[str]]) -> None:
        self.aliases = {name: found[0][1:] for name, found in zone.items() if found and found[0].startswith("=")}
        self.zone = {
            name: tuple(map(ipaddress.ip_address, found)) for name, found in zone.items() if name not in self.aliases
        }
        self.asked: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        with contextlib.suppress(MalformedQuery):
            query = parse_query(data)
            self.asked.add(query.name)
            if (target := self.aliases.get(query.name)) is not None:
                self.transport.sendto(alias_response(query, target, self.zone[target]), address)
                return
            found = self.zone.get(query.name)
            self.transport.sendto(build_response(query, nxdomain=found is None, addresses=found or ()), address)


def alias_response(query: Query, target: str, addresses: Sequence[IP]) -> bytes:
    """A CNAME record, and what the name that it leads to resolves to."""
    plain = build_response(query, addresses=addresses)
    name = b"".join(bytes([len(label)]) + label.encode() for label in target.split(".")) + b"\0"
    start = 12 + len(query.question)
    alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 30, len(name)) + name
    records = plain[start:].replace(b"\xc0\x0c", struct.pack("!H", 0xC000 | (start + 12)))
    count = int.from_bytes(plain[6:8], "big") + 1
    return plain[:6] + struct.pack("!H", count) + plain[8:start] + alias + records


class Trap:
    """A server on every address: notes who was reached and what came, and answers in kind."""

    def __init__(self) -> None:
        self.reply: bytes = b""
        """What is answered to an HTTP request instead of a plain 200."""
        self.reached: list[str] = []
        self.received = bytearray()
        self.broken: list[str] = []
        """How what came is not whole, well-formed HTTP."""
        self.open = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def listen(self, ports: set[int]) -> None:
        for port in sorted(ports):
            for host in ("0.0.0.0", "::"):
                await asyncio.start_server(self.serve, host, port, backlog=256, limit=1 << 20)

    def reset(self, reply: bytes) -> None:
        self.reply = reply
        self.reached.clear()
        self.received.clear()
        self.broken.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, port = writer.get_extra_info("sockname")[:2]
        text = str(parse_host(f"[{address}]" if ":" in address else address)[1])
        self.reached.append(f"[{text}]:{port}" if ":" in text else f"{text}:{port}")
        self.open += 1
        self.idle.clear()
        try:
            async with asyncio.timeout(20):
                await self.answer(reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        except h11.RemoteProtocolError as error:
            self.broken.append(str(error))
        finally:
            writer.close()
            self.open -= 1
            if not self.open:
                self.idle.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        self.received += first
        if METHOD.match(first):
            await self.answer_http(first, reader, writer)
            return
        rest = await reader.read(-1)
        self.received += rest
        if first:
            writer.write(ALERT if first[:1] == b"\x16" else b"ECHO" + first + rest)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async def answer_http(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        state.receive_data(first)
        method = b""
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                self.received += data
                state.receive_data(data)
            elif isinstance(event, h11.Request):
                method = event.method
            elif isinstance(event, h11.EndOfMessage):
                if not await self.respond(method, reader, writer):
                    return
                state.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))
                state.send(h11.EndOfMessage())
                if state.our_state is h11.MUST_CLOSE:
                    return
                state.start_next_cycle()
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return

    async def respond(self, method: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when this ends the connection."""
        if not self.reply:
            writer.write(OK if method == b"HEAD" else OK + b"ok")
            await writer.drain()
            return True
        writer.write(self.reply)
        await writer.drain()
        if b" 101 " in self.reply[:20]:
            self.received += await reader.read(-1)
            return False
        return b"Content-Length: " in self.reply
