"""Drives an `Exchange` over two streams and waits where it has to: for bytes, and for the other side to take them."""

from __future__ import annotations

import asyncio

from egress.http.exchange import ClientFault, Exchange, UpstreamFault
from egress.net.stream import Stream


async def carry(exchange: Exchange, client: Stream, upstream: Stream) -> UpstreamFault | ClientFault | None:
    """Carry it to its end, whatever of it is done already; what went wrong."""
    try:
        if exchange.uploaded:
            await pump_response(exchange, client, upstream)
        else:
            await pump_both(exchange, client, upstream)
    except (UpstreamFault, ClientFault) as fault:
        return fault
    return None


async def pump_both(exchange: Exchange, client: Stream, upstream: Stream) -> None:
    """A server may answer before it has read the whole request."""
    try:
        async with asyncio.TaskGroup() as group:
            upload = group.create_task(pump_request(exchange, client, upstream))
            await pump_response(exchange, client, upstream)
            upload.cancel()  # what the server did not wait for is not sent
    except ExceptionGroup as faults:
        raise faults.exceptions[0] from None


async def pump_request(exchange: Exchange, client: Stream, upstream: Stream) -> None:
    while not exchange.uploaded:
        data = exchange.from_client(client.buffer, client.eof)
        if data:
            upstream.write(data)
            if not await upstream.drain():
                await never()
        if exchange.request_body.stopped:
            await client.poller.turn()
        elif not data:
            await client.more()


async def never() -> None:
    """The upstream takes no more: its response, or its end, says what comes next, and ends this task."""
    await asyncio.get_running_loop().create_future()


async def pump_response(exchange: Exchange, client: Stream, upstream: Stream) -> None:
    while not exchange.answered:
        data = exchange.from_upstream(upstream.buffer, upstream.eof)
        if data:
            await give(client, data, wait=not exchange.upgraded)
        if exchange.stopped:
            await upstream.poller.turn()
        elif not data and not exchange.answered:
            await upstream.more()
            if upstream.expired:
                raise ClientFault("")  # a body that ends with its connection would seem complete


async def give(client: Stream, data: bytes, *, wait: bool) -> None:
    """Write to the client and wait until it takes more."""
    client.write(data)
    if wait and not await client.drain():
        raise ClientFault("")
