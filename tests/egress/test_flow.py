"""Tunnels over real sockets: every byte arrives, in order, whatever ends or breaks when; and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import hashlib
import logging
import os
import random
import resource
import select
import socket
import struct
import termios
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from egress.net import flow as flow_module
from egress.net.flow import BUSY_BYTES, Flow
from egress.net.poller import Poller
from egress.net.stream import READ_AHEAD, Stream
from egress.net.tunnel import Tunnel
from observability.events import Reason
from tests.egress.sockets import LOOPS, WAIT_S, descriptors, everything, polling, reset, tcp_pair, turns, until

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
EVERY = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@dataclass
class Joined:
    """A tunnel, and the sockets of who speaks through it."""

    client: socket.socket
    server: socket.socket
    near: Stream
    """The proxy's end towards the client."""
    far: Stream
    """The proxy's end towards the server."""
    ends: list[tuple[Reason | None, int, int]]
    tunnel: Tunnel | None = None

    def join(self) -> Tunnel:
        self.tunnel = Tunnel(self.near, self.far, lambda *end: self.ends.append(end), now=0.0)
        return self.tunnel

    async def end(self) -> tuple[Reason | None, int, int]:
        """How it ended: once, with everything closed."""
        await until(lambda: self.ends)
        await turns()
        (end,) = self.ends
        assert (self.near.sock.fileno(), self.far.sock.fileno()) == (-1, -1)
        assert self.near.poller.handlers == {}
        return end


@contextlib.asynccontextmanager
async def pairs(*, small: bool = False) -> AsyncIterator[Joined]:
    """Two connections, not joined yet."""
    with tcp_pair(small=small) as (near, client), tcp_pair(small=small) as (far, server):
        async with polling() as poller:
            joined = Joined(client, server, Stream(poller, near), Stream(poller, far), [])
            yield joined
            if joined.tunnel is not None:
                joined.tunnel.cut(None)


@contextlib.asynccontextmanager
async def tunnelled(*, small: bool = False) -> AsyncIterator[Joined]:
    async with pairs(small=small) as joined:
        joined.join()
        yield joined


async def got(sock: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""

    def receive() -> bytes:
        data = bytearray()
        while len(data) < count and (piece := sock.recv(count - len(data))):
            data += piece
        return bytes(data)

    return await asyncio.to_thread(receive)


def waiting_in(sock: socket.socket) -> int:
    """Bytes that the kernel holds for its reader."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]  # type: ignore[no-any-return]


# --- joining


async def test_what_both_streams_hold_goes_first_and_in_order() -> None:
    async with pairs() as joined:
        joined.client.sendall(b"hello ")
        joined.server.sendall(b"greetings ")
        await until(lambda: joined.near.buffer and joined.far.buffer)
        joined.near.poller.corked = []
        joined.near.write(b"established ")
        joined.join()
        joined.near.poller.corked = None
        joined.client.sendall(b"again")
        joined.server.sendall(b"bye")
        assert await got(joined.server, 11) == b"hello again"
        assert await got(joined.client, 25) == b"established greetings bye"
        joined.client.close()
        joined.server.close()
        assert await joined.end() == (None, 11, 13)


@pytest.mark.parametrize("more", [-1, 0, 1, READ_AHEAD])
async def test_what_came_while_a_stream_was_paused_is_carried_without_a_new_event(more: int) -> None:
    size = READ_AHEAD + more
    async with pairs() as joined:
        joined.client.sendall(bytes(size))
        joined.client.shutdown(socket.SHUT_WR)
        await until(lambda: joined.near.eof or joined.near.unread)
        joined.join()
        assert len(await asyncio.to_thread(everything, joined.server)) == size
        joined.server.close()
        assert await joined.end() == (None, size, 0)


async def test_unsent_output_and_the_buffer_go_out_in_order_to_a_slow_client() -> None:
    first, second, third = bytes([1]) * MIB, bytes([2]) * 50_000, bytes([3]) * MIB
    async with pairs(small=True) as joined:
        joined.near.write(first)
        assert joined.near.out is not None
        joined.server.sendall(second)
        await until(lambda: len(joined.far.buffer) == len(second))
        joined.join()
        sending = asyncio.ensure_future(asyncio.to_thread(joined.server.sendall, third))
        assert await got(joined.client, 2 * MIB + 50_000) == first + second + third
        await sending


async def test_a_client_reset_before_it_could_be_answered_ends_the_tunnel_at_once() -> None:
    """Its stream's failure must not close the socket under the tunnel, which would wait for the idle timeout."""
    async with pairs() as joined:
        reset(joined.client)
        joined.near.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        assert joined.near.out is not None
        joined.near.buffer += b"hello"
        joined.join()
        assert await joined.end() == (None, 5, 0)
        assert await asyncio.to_thread(everything, joined.server) == b"hello"


@pytest.mark.parametrize("which", ["near", "far"])
async def test_a_stream_that_is_lost_already_ends_the_tunnel(which: str) -> None:
    async with pairs() as joined:
        joined.far.buffer += b"last words"
        reset(joined.client if which == "near" else joined.server)
        await until(lambda: getattr(joined, which).lost)
        joined.join()
        words = await asyncio.to_thread(everything, joined.client) if which == "far" else b""
        assert words == (b"last words" if which == "far" else b"")
        assert await joined.end() == (None, 0, len(words))


async def test_an_end_that_a_stream_saw_is_passed_on() -> None:
    async with pairs() as joined:
        joined.client.sendall(b"all of it")
        joined.client.shutdown(socket.SHUT_WR)
        await until(lambda: joined.near.eof)
        joined.join()
        assert await asyncio.to_thread(everything, joined.server) == b"all of it"
        joined.server.sendall(b"answer")
        joined.server.close()
        assert await asyncio.to_thread(everything, joined.client) == b"answer"
        assert await joined.end() == (None, 9, 6)


# --- events


async def test_spurious_events_in_every_state_do_no_harm() -> None:
    async with tunnelled() as joined:
        tunnel = joined.tunnel
        assert tunnel is not None

        def poke() -> None:
            for flags in (EVERY, 0, select.EPOLLOUT, select.EPOLLHUP):
                tunnel.client_ready(flags)
                tunnel.upstream_ready(flags)

        poke()
        joined.client.sendall(b"a")
        assert await got(joined.server, 1) == b"a"
        joined.client.shutdown(socket.SHUT_WR)
        assert await got_end(joined.server)
        poke()
        joined.server.sendall(b"b")
        joined.server.close()
        assert await asyncio.to_thread(everything, joined.client) == b"b"
        assert await joined.end() == (None, 1, 1)
        poke()
        tunnel.cut(Reason.SHUTDOWN)
        assert len(joined.ends) == 1


async def got_end(sock: socket.socket) -> bool:
    return await asyncio.to_thread(sock.recv, 1) == b""


async def test_data_and_end_in_one_event_both_arrive() -> None:
    async with tunnelled() as joined:
        joined.client.sendall(b"one")
        joined.client.close()
        assert await asyncio.to_thread(everything, joined.server) == b"one"
        joined.server.close()
        assert await joined.end() == (None, 3, 0)


@pytest.mark.parametrize("busy", [False, True])
async def test_urgent_data_neither_holds_back_nor_ends_what_follows(busy: bool) -> None:
    """recv(2) stops at the mark; splice(2) does not get over it, and looks as at the end."""
    before = 2 * BUSY_BYTES if busy else 6
    async with tunnelled() as joined:
        receiving = asyncio.ensure_future(asyncio.to_thread(everything, joined.server))
        await asyncio.to_thread(joined.client.sendall, bytes(before))
        assert joined.tunnel is not None
        flow = joined.tunnel.outward
        await until(lambda: flow.count == before)
        assert (flow.pipe is not None) is busy
        joined.client.send(b"!", socket.MSG_OOB)
        joined.client.sendall(b"after")
        await until(lambda: flow.count == before + 5)
        joined.client.shutdown(socket.SHUT_WR)
        assert await receiving == bytes(before) + b"after"


# --- ends


@pytest.mark.parametrize("first", ["client", "server"])
async def test_half_closes_in_either_order_end_it_after_the_second(first: str) -> None:
    async with tunnelled() as joined:
        one, other = (joined.client, joined.server) if first == "client" else (joined.server, joined.client)
        one.sendall(b"one")
        one.shutdown(socket.SHUT_WR)
        assert await asyncio.to_thread(everything, other) == b"one"
        assert joined.ends == []
        other.sendall(b"other")
        assert await got(one, 5) == b"other"
        other.shutdown(socket.SHUT_WR)
        assert await got_end(one)
        assert await joined.end() == (None, *((3, 5) if first == "client" else (5, 3)))


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("half_closed", [False, True])
async def test_a_reset_ends_both_sides_also_after_a_half_close(who: str, half_closed: bool) -> None:
    async with tunnelled() as joined:
        one, other = (joined.client, joined.server) if who == "client" else (joined.server, joined.client)
        if half_closed:
            one.shutdown(socket.SHUT_WR)
            assert await got_end(other)
        reset(one)
        assert await asyncio.to_thread(everything, other) == b""
        assert (await joined.end())[0] is None


async def test_what_a_reset_peer_said_before_still_arrives_though_it_takes_nothing_any_more() -> None:
    """A server that answers early and closes on what it did not read: its answer is there, behind the error."""
    answer = bytes(range(256)) * 200
    async with tunnelled() as joined:
        assert joined.tunnel is not None
        tunnel = joined.tunnel
        joined.server.sendall(answer)
        assert waiting_in(joined.far.sock) == len(answer)
        reset(joined.server)
        tunnel.outward.give(b"x")  # finds the reset before the answer was read
        assert await asyncio.to_thread(everything, joined.client) == answer
        assert (await joined.end())[2] == len(answer)


async def test_an_end_behind_a_full_sink_arrives_after_all_the_data() -> None:
    data = random.Random(3).randbytes(6 * MIB)
    async with tunnelled(small=True) as joined:
        sending = asyncio.ensure_future(asyncio.to_thread(joined.client.sendall, data))
        assert joined.tunnel is not None
        flow = joined.tunnel.outward
        await until(lambda: flow.rest or flow.held)
        received = asyncio.ensure_future(asyncio.to_thread(everything, joined.server))
        await sending
        joined.client.close()
        assert hashlib.sha256(await received).digest() == hashlib.sha256(data).digest()
        joined.server.close()
        assert await joined.end() == (None, len(data), 0)


async def test_a_reset_of_the_source_behind_a_full_sink_keeps_what_was_read() -> None:
    async with tunnelled(small=True) as joined:
        joined.client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                joined.client.send(bytes(65536))
                await turns(3)
        assert joined.tunnel is not None
        flow = joined.tunnel.outward
        assert flow.rest or flow.held
        read = flow.count
        reset(joined.client)
        await turns()
        assert joined.ends == []
        assert len(await asyncio.to_thread(everything, joined.server)) >= read
        reason, sent, _ = await joined.end()
        assert (reason, sent >= read) == (None, True)


async def test_a_sink_that_takes_bytes_slowly_is_not_idle() -> None:
    async with tunnelled(small=True) as joined:
        assert joined.tunnel is not None
        tunnel, flow = joined.tunnel, joined.tunnel.outward
        joined.client.sendall(bytes(60_000))
        joined.server.setblocking(False)
        await until(lambda: flow.rest)
        for now in range(1, 4):
            waiting = len(flow.rest)
            tunnel.tick(float(now), 0.5)

            def took(waiting: int = waiting) -> bool:
                with contextlib.suppress(BlockingIOError):
                    joined.server.recv(2048)
                return len(flow.rest) < waiting

            await until(took)
        assert flow.rest
        assert joined.ends == []
        tunnel.tick(10.0, 2.0)
        tunnel.tick(20.0, 2.0)
        assert (await joined.end())[0] is Reason.IDLE_TIMEOUT


# --- fairness


async def test_a_source_that_never_dries_up_goes_round_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event and each turn ask for another round: asked for twice, it is still one."""
    queued: list[object] = []
    async with tunnelled() as joined:
        assert joined.tunnel is not None
        flow = joined.tunnel.outward
        loop = joined.near.poller.loop
        asked = loop.call_soon

        class Counting:
            def __getattr__(self, name: str) -> object:
                return getattr(loop, name)

            def call_soon(self, what: object) -> None:
                queued.append(what)
                asked(what)  # type: ignore[arg-type]

        joined.near.poller.loop = Counting()  # type: ignore[assignment]
        for _ in range(10):
            flow.go_on_later()
        assert len(queued) == 1
        await turns()
        flow.go_on_later()
        assert len(queued) == 2
        joined.near.poller.loop = loop


# --- pipes


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """The table is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    fillers = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_descriptor_for_a_pipe_it_is_copied_on() -> None:
    data = random.Random(4).randbytes(4 * MIB)
    async with tunnelled() as joined:
        received = asyncio.ensure_future(asyncio.to_thread(everything, joined.server))
        await turns()
        with no_more_descriptors():
            await asyncio.to_thread(joined.client.sendall, data)
            assert joined.tunnel is not None
            flow = joined.tunnel.outward
            await until(lambda: flow.count == len(data))
            assert flow.pipe is None
        joined.client.close()
        assert await received == data


async def test_where_splice_does_not_work_it_is_copied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> int:
        raise OSError(22, "Invalid argument")

    data = random.Random(5).randbytes(4 * MIB)
    monkeypatch.setattr(os, "splice", refuses)
    before = descriptors()
    async with tunnelled() as joined:
        received = asyncio.ensure_future(asyncio.to_thread(everything, joined.server))
        await asyncio.to_thread(joined.client.sendall, data)
        joined.client.close()
        assert await received == data
        joined.server.close()
        await joined.end()
    assert descriptors() <= before


@pytest.mark.parametrize("how", ["reset_client", "reset_server", "cut", "close"])
async def test_a_busy_tunnel_leaves_no_pipe_however_it_ends(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_module, "BUSY_BYTES", 100_000)
    async with tunnelled() as joined:
        assert joined.tunnel is not None
        tunnel, flow = joined.tunnel, joined.tunnel.outward
        base = descriptors()
        joined.client.setblocking(False)
        joined.server.setblocking(False)

        def filled() -> bool:
            with contextlib.suppress(BlockingIOError):
                joined.client.send(bytes(65536))
            if flow.pipe is None:
                with contextlib.suppress(BlockingIOError):
                    joined.server.recv(65536)
            return flow.held > 0

        await until(filled)
        assert descriptors() == base + 2
        match how:
            case "reset_client":
                reset(joined.client)
                joined.server.settimeout(WAIT_S)
                await asyncio.to_thread(everything, joined.server)
            case "reset_server":
                reset(joined.server)
            case "cut":
                tunnel.cut(Reason.SHUTDOWN)
            case "close":
                joined.client.close()
                joined.server.settimeout(WAIT_S)
                await asyncio.to_thread(everything, joined.server)
                joined.server.close()
        await joined.end()
        assert descriptors() <= base - 2


# --- many


async def short_tunnels(poller: Poller, count: int) -> None:
    """Tunnels that carry a word each way, half-closed by either side first."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        for number in range(count):
            ends: list[object] = []
            socks = []
            for _ in range(2):
                outer = socket.create_connection(listener.getsockname())
                inner, _ = listener.accept()
                inner.setblocking(False)
                socks.append((outer, inner))
            (client, near), (server, far) = socks
            Tunnel(Stream(poller, near), Stream(poller, far), lambda *end: ends.append(end), now=0.0)  # noqa: B023
            one, other = (client, server) if number % 2 else (server, client)
            one.sendall(b"ping")
            one.shutdown(socket.SHUT_WR)
            if number % 3:
                other.sendall(b"pong")
            other.close() if number % 5 else reset(other)
            await until(lambda: ends)  # noqa: B023
            one.close()


async def test_a_bug_in_one_direction_ends_the_tunnel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    give = Flow.give
    failed: list[Flow] = []

    def fails_once(flow: Flow, data: memoryview | bytes) -> bool:
        if not failed:
            failed.append(flow)
            raise RuntimeError("a bug")
        return give(flow, data)

    monkeypatch.setattr(Flow, "give", fails_once)
    async with tunnelled() as joined:
        with caplog.at_level(logging.CRITICAL):
            joined.client.send(b"x")
            await until(lambda: failed)
            assert await got(joined.server, 1) == await got(joined.client, 1) == b""
            joined.server.close()
            assert (await joined.end())[0] is None


@pytest.mark.slow
async def test_thousands_of_short_tunnels_leave_no_descriptor_and_no_garbage() -> None:
    async with polling() as poller:
        await short_tunnels(poller, 10)
        gc.collect()
        base = descriptors()
        for _ in range(3):
            await short_tunnels(poller, 4_000)
            assert descriptors() <= base
            assert poller.handlers == {}
            assert poller.passed == set()
        assert not [part for part in gc.get_objects() if isinstance(part, (Flow, Tunnel, Stream))]


@dataclass
class Talk:
    """One side of a stressed tunnel: what it says, and what it does then."""

    sock: socket.socket
    says: bytes
    slow: bool
    breaks: bool
    random: random.Random
    heard: bytearray = field(default_factory=bytearray)

    async def run(self) -> None:
        """Speak and hear at once; to break off is to be reset."""
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(self.hear())
            with contextlib.suppress(OSError):
                await self.speak()
            if self.breaks:
                hearing.cancel()
                await asyncio.wait([hearing])
                reset(self.sock)

    async def speak(self) -> None:
        loop = asyncio.get_running_loop()
        sent = 0
        stop = self.random.randrange(len(self.says) + 1) if self.breaks else len(self.says)
        while sent < stop:
            piece = self.says[sent : min(stop, sent + self.random.choice((1, 100, 5_000, 70_000, 400_000)))]
            await loop.sock_sendall(self.sock, piece)
            sent += len(piece)
            await turns(self.random.randrange(4))
        if not self.breaks:
            self.sock.shutdown(socket.SHUT_WR)

    async def hear(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(self.sock, 2_000 if self.slow else 200_000):
                self.heard += data


async def talk(seed: int, poller: Poller) -> None:
    """A tunnel of random sizes, speeds and ends; what arrives is what was said, all of it unless somebody broke off."""
    chance = random.Random(seed)
    small = chance.random() < 0.5
    with tcp_pair(small=small) as (near, client), tcp_pair(small=small) as (far, server):
        sides = []
        for sock in (client, server):
            sock.setblocking(False)
            size = chance.choice((0, 1, 1_000, READ_AHEAD, READ_AHEAD + 1, 300_000, int(2.5 * MIB)))
            says = chance.randbytes(size)
            sides.append(Talk(sock, says, chance.random() < 0.2 and size < MIB, chance.random() < 0.2, chance))
        ends: list[tuple[Reason | None, int, int]] = []
        streams = Stream(poller, near), Stream(poller, far)
        one, other = sides
        talking = asyncio.gather(*(side.run() for side in sides))
        await turns(chance.randrange(30))
        Tunnel(*streams, lambda *end: ends.append(end), now=0.0)
        await until(lambda: ends)
        async with asyncio.timeout(WAIT_S):
            await talking
        ((reason, sent, received),) = ends
        assert reason is None
        assert one.says.startswith(other.heard), f"seed {seed}: the server heard something else"
        assert other.says.startswith(one.heard), f"seed {seed}: the client heard something else"
        if not (one.breaks or other.breaks):
            assert (len(other.heard), len(one.heard)) == (len(one.says), len(other.says)), f"seed {seed}"
            assert (sent, received) == (len(one.says), len(other.says)), f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
async def test_hundreds_of_tunnels_with_random_sizes_and_ends_carry_every_byte(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "BUSY_BYTES", 100_000)
    base = descriptors()
    async with polling() as poller:
        for first in range(0, 240, 24):
            async with asyncio.TaskGroup() as tasks:
                for number in range(first, first + 24):
                    tasks.create_task(talk(1000 * seed + number, poller))
        assert poller.handlers == {}
    assert descriptors() <= base
