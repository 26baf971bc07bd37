"""Connections to an HTTP backend: which ones are used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.mcp.wire.http_client import Connection, Pool, dial_url
from tests.serving import serving

pytestmark = pytest.mark.anyio
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Hears:
    """How an exchange went."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        return

    def on_data(self, data: bytes) -> None:
        return

    def on_end(self) -> None:
        self.outcome.set_result("")

    def on_broken(self, why: str) -> None:
        self.outcome.set_result(why)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """To a server that answers once on each connection, then hangs up at the next request."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await reader.read(1)
        writer.close()

    async with serving(once) as port:
        made = Pool(dial_url("127.0.0.1", port, None))
        yield made
        made.close()


async def exchange(connection: Connection) -> str:
    hears = Hears()
    connection.request(REQUEST, hears)
    async with asyncio.timeout(30):
        return await hears.outcome


async def test_a_kept_connection_that_ends_without_a_word_has_not_answered(pool: Pool) -> None:
    connection = await pool.take()
    assert await exchange(connection) == ""
    assert await pool.take() is connection
    assert await exchange(connection) == "it closed the connection before the response was complete"


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
@pytest.mark.parametrize(("rest", "outcome"), [("0\r\n\r\n", ""), ("", "before the response was complete")])
async def test_a_chunked_answer_is_complete_with_its_last_chunk_however_the_coding_is_written(
    coding: str, rest: str, outcome: str
) -> None:
    """Names of codings have no case (RFC 9112 7): one that was cut off must not pass for a whole one."""

    async def chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nok\r\n{rest}".encode())
        writer.close()

    async with serving(chunks) as port:
        pool = Pool(dial_url("127.0.0.1", port, None))
        assert outcome in await exchange(await pool.take())
        pool.close()


async def test_when_one_connection_breaks_those_made_before_are_not_used_again(pool: Pool) -> None:
    """Where the process died they end as well, but perhaps a moment later."""
    idle, broken, busy = await pool.take(), await pool.take(), await pool.take()
    assert await exchange(idle) == await exchange(broken) == ""
    assert await pool.take() is broken
    assert await exchange(broken) != ""
    assert await exchange(busy) == ""
    other = await pool.take()
    assert other not in (idle, busy)
    assert await exchange(other) == ""
    assert await pool.take() is other
