"""A stream over real sockets: nothing that arrives is missed, whatever state it is in."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from egress.net.stream import READ_AHEAD, READ_BYTES, WRITE_AHEAD, Stream
from egress.net.upstream import Dialling
from tests.egress.sockets import LOOPS, everything, polling, reset, tcp_pair, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@contextlib.asynccontextmanager
async def streaming(*, small: bool = False) -> AsyncIterator[tuple[Stream, socket.socket]]:
    """A stream and its peer's socket."""
    with tcp_pair(small=small) as (ours, peer):
        async with polling() as poller:
            stream = Stream(poller, ours)
            yield stream, peer
            stream.abort()


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


# --- what arrives


async def test_data_and_end_in_one_event_are_both_seen() -> None:
    async with streaming() as (stream, peer):
        peer.sendall(b"last words")
        peer.shutdown(socket.SHUT_WR)
        assert await stream.receive() == b"last words"
        assert stream.eof
        assert await stream.receive() == b""


async def test_data_and_reset_in_one_event_are_both_seen() -> None:
    async with streaming() as (stream, peer):
        told = []
        stream.on_input = lambda: told.append(bytes(stream.buffer))
        peer.sendall(b"last words")
        reset(peer)
        await until(lambda: stream.lost)
        assert told[-1] == b"last words"
        assert stream.eof
        assert stream.sock.fileno() == -1


async def test_a_spurious_event_changes_nothing() -> None:
    async with streaming() as (stream, peer):
        called: list[None] = []
        stream.on_input = lambda: called.append(None)
        every = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
        stream.ready(every)
        stream.ready(0)
        assert (called, stream.eof, stream.lost) == ([], False, False)
        peer.sendall(b"x")
        await until(lambda: called)
        assert stream.take() == b"x"


async def test_urgent_data_holds_nothing_back() -> None:
    """recv(2) stops at the urgent mark though more is there, and no new event says so."""
    async with streaming() as (stream, peer):
        peer.sendall(b"before")
        peer.send(b"!", socket.MSG_OOB)
        peer.sendall(b"after")
        await until(lambda: b"after" in stream.buffer)
        assert stream.take() == b"beforeafter"


@pytest.mark.parametrize("size", [READ_AHEAD - 1, READ_AHEAD, READ_AHEAD + 1, READ_AHEAD + READ_BYTES])
@pytest.mark.parametrize("ends", [False, True])
async def test_all_of_it_arrives_around_the_read_ahead(size: int, ends: bool) -> None:
    async with streaming() as (stream, peer):
        peer.sendall(bytes(size))
        if ends:
            peer.shutdown(socket.SHUT_WR)
        await until(lambda: len(stream.buffer) == size or stream._paused)
        assert stream._paused is (len(stream.buffer) > READ_AHEAD)
        got = len(stream.take())
        if not ends:
            peer.sendall(b"more")
        while got < size + 4 * (not ends):
            data = await stream.receive()
            assert data
            got += len(data)
        assert got == size + 4 * (not ends)
        if ends:
            assert await stream.receive() == b""


async def test_a_paused_stream_holds_a_bounded_amount_and_goes_on_when_it_is_read() -> None:
    size = 16 * READ_AHEAD
    async with streaming() as (stream, peer):
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(peer, bytes(size)))
        await until(lambda: stream._paused)
        await turns()
        assert READ_AHEAD < len(stream.buffer) <= READ_AHEAD + READ_BYTES
        got = 0
        while got < size:
            got += len(await stream.receive())
        await sending


async def test_an_end_that_came_while_paused_is_seen_when_it_is_read() -> None:
    async with streaming() as (stream, peer):
        peer.sendall(bytes(READ_AHEAD + 1))
        await until(lambda: stream._paused)
        peer.shutdown(socket.SHUT_WR)
        await turns()
        assert not stream.eof
        got = 0
        while data := await stream.receive():
            got += len(data)
        assert (got, stream.eof) == (READ_AHEAD + 1, True)


async def test_a_reset_that_came_while_paused_is_seen_when_it_is_read() -> None:
    async with streaming() as (stream, peer):
        peer.sendall(bytes(READ_AHEAD + 1))
        await until(lambda: stream._paused)
        reset(peer)
        await turns()
        while await stream.receive():
            pass
        assert stream.lost


async def test_what_a_server_says_at_once_is_read_though_it_came_with_the_connection() -> None:
    """The event that says "connected" may be the one that says "readable"; there is no second one."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())  # the queue is full now: what dials next has to try again
        async with polling() as poller:
            dialling = Dialling(poller, ip_address("127.0.0.1"), listener.getsockname()[1])
            assert dialling.outcome is None
            done = asyncio.Event()
            dialling.on_done = done.set
            listener.accept()[0].close()
            server, _ = listener.accept()
            with server:
                server.sendall(b"220 at your service\r\n")
                await done.wait()
                stream = dialling.outcome
                assert isinstance(stream, Stream)
                await until(lambda: stream.buffer)
                assert stream.take() == b"220 at your service\r\n"
                stream.abort()


# --- what is sent


async def test_what_the_kernel_does_not_take_goes_out_when_it_can() -> None:
    data = bytes(range(256)) * 8192
    async with streaming(small=True) as (stream, peer):
        stream.write(data)
        stream.write(b"end")
        assert stream.out is not None
        stream.close()
        assert stream.closing
        assert not stream.lost
        received = await asyncio.to_thread(everything, peer)
        assert received == data + b"end"
        await until(lambda: stream.lost)


async def test_a_half_close_waits_for_what_was_written() -> None:
    data = bytes(2_000_000)
    async with streaming(small=True) as (stream, peer):
        stream.write(data)
        stream.write_eof()
        assert await asyncio.to_thread(everything, peer) == data
        peer.sendall(b"answer")
        assert await stream.receive() == b"answer"


async def test_draining_ends_when_the_peer_is_reset() -> None:
    async with streaming(small=True) as (stream, peer):
        stream.write(bytes(4 * WRITE_AHEAD))
        draining = asyncio.ensure_future(stream.drain())
        await turns()
        assert not draining.done()
        reset(peer)
        async with asyncio.timeout(60):
            assert await draining is False
        assert stream.lost


async def test_closing_with_unsent_output_tells_when_the_peer_is_reset_instead() -> None:
    async with streaming(small=True) as (stream, peer):
        stream.write(bytes(4 * WRITE_AHEAD))
        stream.close()
        lost = asyncio.Event()
        stream.on_lost = lost.set
        peer.recv(1)
        reset(peer)
        async with asyncio.timeout(60):
            await lost.wait()
        assert stream.sock.fileno() == -1


async def test_writes_in_one_batch_go_out_in_order_when_it_is_over() -> None:
    async with streaming() as (stream, peer):
        early: list[bool] = []

        def answer() -> None:
            stream.write(b"one ")
            stream.write(b"two ")
            early.append(readable(peer))

        stream.on_input = answer
        peer.sendall(b"?")
        await until(lambda: early and stream.poller.corked is None)
        assert early == [False]
        stream.write(b"three")
        assert await asyncio.to_thread(peer.recv, 13, socket.MSG_WAITALL) == b"one two three"


@pytest.mark.parametrize("way", ["close", "write_eof"])
async def test_what_is_held_back_goes_out_before_an_end(way: str) -> None:
    async with streaming() as (stream, peer):

        def answer() -> None:
            stream.write(b"bye")
            getattr(stream, way)()

        stream.on_input = answer
        peer.sendall(b"?")
        assert await asyncio.to_thread(everything, peer) == b"bye"


async def test_a_write_to_a_reset_connection_is_noticed_later_not_at_once() -> None:
    async with streaming() as (stream, peer):
        lost: list[None] = []
        stream.on_lost = lambda: lost.append(None)
        reset(peer)
        stream.write(b"x")
        assert not lost
        await until(lambda: lost)
        await turns()
        assert lost == [None]
        stream.write(b"y")
        stream.write_eof()
        stream.close()
        stream.abort()


async def test_waits_end_when_the_stream_expires() -> None:
    async with streaming(small=True) as (stream, _):
        stream.write(bytes(4 * WRITE_AHEAD))
        reading, draining = asyncio.ensure_future(stream.receive()), asyncio.ensure_future(stream.drain())
        await turns()
        stream.expire()
        assert (await reading, await draining) == (b"", False)


async def test_the_peers_end_is_told_only_when_nothing_waits_to_be_taken() -> None:
    async with streaming() as (stream, peer):
        ended: list[None] = []
        stream.on_end = lambda: ended.append(None)
        peer.sendall(b"words")
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: stream.eof)
        assert ended == []
    async with streaming() as (stream, peer):
        stream.on_end = lambda: ended.append(None)
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: ended)


async def test_a_reset_is_seen_after_the_peers_end() -> None:
    """Who half-closed and is then gone holds its place no longer."""
    async with streaming() as (stream, peer):
        lost: list[None] = []
        stream.on_lost = lambda: lost.append(None)
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: stream.eof)
        assert not lost
        reset(peer)
        await until(lambda: lost)
        assert stream.lost
