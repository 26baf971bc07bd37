"""One plain HTTP request and its response, carried between a client and an upstream connection.

Theory of operation
-------------------
The request's head was parsed, decided and built anew before it comes here. Its body is pumped by one task while
the response is pumped by another: a server may answer before it read everything. What leaves is always framed by
us. A pump waits for the other side to take what it wrote, so a body of any size costs a constant amount of memory.

An upstream connection is used again only when the response ended exactly where its framing said, with nothing
after it: whatever a server sends unasked never becomes the answer to the next request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from egress.http.framing import (
    MAX_HEADERS,
    BadFraming,
    ChunkedBody,
    Framing,
    ResponseHead,
    encode_chunk,
    encode_last_chunk,
    parse_response_head,
    response_framing,
    serialise_response,
)
from egress.http.head_end import MAX_HEAD, BadHead, HeadScan
from egress.net.stream import Stream
from observability.events import Reason

MAX_INTERIM = 16


@dataclass(slots=True, kw_only=True)
class RequestPlan:
    """How one request is to be carried. Nobody changes it."""

    method: str
    head: bytes
    """As it goes out."""
    framing: Framing
    """Of the request's body: NONE, LENGTH or CHUNKED."""
    length: int = 0
    minor: int = 1
    """Of the client's HTTP/1 version."""
    keep_alive: bool = True
    """What the client wants."""
    upgrade: bytes | None = None
    """The protocol that the client asks to switch to."""
    through_parent: bool = False
    """Whether a parent proxy answers, which may want credentials of us, not of the client."""


class UpstreamFault(Exception):
    """Raised when the upstream's answer is no well-formed HTTP, or ends in its middle, or is not for the client."""

    def __init__(
        self, detail: str, *, started: bool, silent: bool = False, reason: Reason = Reason.UPSTREAM_INVALID
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.started = started
        """Whether a part of the response has gone to the client already."""
        self.silent = silent
        """Whether the upstream said nothing at all before it hung up."""
        self.reason = reason


class ClientFault(Exception):
    """Raised when the client's body is malformed (`detail` says how) or ends in its middle (`detail` is empty)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Exchange:
    """One request and its response."""

    __slots__ = (
        "asked",
        "client",
        "client_reusable",
        "plan",
        "received",
        "sent",
        "started",
        "upgraded",
        "uploaded",
        "upstream",
        "upstream_reusable",
    )

    def __init__(self, client: Stream, upstream: Stream, plan: RequestPlan) -> None:
        self.client = client
        self.upstream = upstream
        self.plan = plan
        self.sent = 0
        """Bytes of body that went out."""
        self.received = 0
        """Bytes of body that came back."""
        self.upstream_reusable = False
        self.client_reusable = False
        self.upgraded = False
        """The upstream switched protocols: both connections are one tunnel from now on."""
        self.started = False
        """A part of the response has gone to the client."""
        self.uploaded = False
        self.asked = False
        """The request's head has gone out."""

    def ask(self) -> None:
        """Send the request's head."""
        self.asked = True
        self.uploaded = self.plan.framing is Framing.NONE
        self.upstream.write(self.plan.head)

    async def run(self) -> None:
        """Carry it. Raises UpstreamFault or ClientFault; both connections must be closed then."""
        if not self.asked:
            self.ask()
        if self.uploaded:
            await self.pump_response()
            return
        try:
            async with asyncio.TaskGroup() as group:
                upload = group.create_task(self.pump_request())
                await self.pump_response()
                upload.cancel()  # what the server did not wait for is not sent
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None

    # --- the request's body

    async def pump_request(self) -> None:
        if self.plan.framing is Framing.LENGTH:
            await self.pump_request_length(self.plan.length)
        else:
            await self.pump_request_chunks()
        self.uploaded = True

    async def pump_request_length(self, left: int) -> None:
        buffer = self.client.buffer
        while left:
            if not buffer and not await self.client.more():
                raise ClientFault("")
            piece = bytes(buffer[:left])
            del buffer[:left]
            left -= len(piece)
            self.sent += len(piece)
            self.upstream.write(piece)
            if not await self.upstream.drain():
                await self.never()

    async def pump_request_chunks(self) -> None:
        body = ChunkedBody()
        while True:
            try:
                content = body.decode(self.client.buffer)
            except BadFraming as error:
                raise ClientFault(str(error)) from None
            self.sent += len(content)
            self.upstream.write(encode_chunk(content))
            if body.done:
                self.upstream.write(encode_last_chunk(body.trailers))
                return
            left = len(self.client.buffer)
            if not await self.upstream.drain():
                await self.never()
            if not await goes_on(body, self.client, left):
                raise ClientFault("")

    async def never(self) -> None:
        """The upstream takes no more: wait for what its response says (the other pump ends this one)."""
        await asyncio.get_running_loop().create_future()

    # --- the response

    def answer_at_once(self) -> bool:
        """Pass on a response that is there whole, with a length and nothing after it; False where it takes more than that.

        Nothing has changed then: `run` carries it, whatever it is.
        """
        buffer = self.upstream.buffer
        end = buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            return False
        try:
            head = parse_response_head(bytes(buffer[:end]))
        except BadFraming:
            return False
        if head.status < 200 or head.status == 407 or self.client.out is not None:  # it does not read
            return False
        framing = response_framing(head, self.plan.method)
        length = head.length or 0 if framing is Framing.LENGTH else 0
        if framing not in (Framing.LENGTH, Framing.NONE) or len(buffer) != end + 4 + length:
            return False
        keep = self.plan.keep_alive
        self.client.write(serialise_response(head, framing, close=not keep) + buffer[end + 4 :])
        buffer.clear()
        self.started = True
        self.received = length
        self.client_reusable = keep
        self.upstream_reusable = not self.upstream.eof and head.keep_alive
        return True

    async def pump_response(self) -> None:
        head = await self.read_final_head()
        if head.status == 101:
            self.switch(head)
            return
        framing = response_framing(head, self.plan.method)
        outgoing = Framing.CLOSE if framing is Framing.CHUNKED and self.plan.minor == 0 else framing
        keep = self.plan.keep_alive and outgoing is not Framing.CLOSE and self.uploaded
        self.started = True
        self.client.write(serialise_response(head, outgoing, close=not keep))
        match framing:
            case Framing.LENGTH:
                await self.pump_response_length(head.length or 0)
            case Framing.CHUNKED:
                await self.pump_response_chunks(rechunk=outgoing is Framing.CHUNKED)
            case Framing.CLOSE:
                await self.pump_response_to_end()
            case Framing.NONE:
                await self.give(b"")
        self.client_reusable = keep
        clean = not self.upstream.buffer and not self.upstream.eof
        self.upstream_reusable = clean and self.uploaded and head.keep_alive and framing is not Framing.CLOSE

    async def read_final_head(self) -> ResponseHead:
        """The response's head, after interim ones (1xx) were passed on."""
        for _ in range(MAX_INTERIM):
            head = await self.read_head()
            if head.status == 407 and self.plan.through_parent:
                detail = "the upstream proxy does not accept our credentials (it answered 407)"
                raise UpstreamFault(detail, started=False, reason=Reason.UPSTREAM_PROXY_FAILED)
            if head.status >= 200 or head.status == 101:
                return head
            if self.plan.minor == 1:
                self.client.write(serialise_response(head, Framing.NONE, close=False))
                await self.give(b"")
        raise self.fault("it sends interim responses without end")

    async def read_head(self) -> ResponseHead:
        buffer = self.upstream.buffer
        scan = HeadScan("response head", max_fields=MAX_HEADERS)
        while (end := scan.find(buffer)) < 0:
            try:
                scan.check(buffer)
            except BadHead as error:
                raise self.fault(str(error)) from None
            if not await self.upstream.more():
                raise self.fault("it hung up before its response was complete", silent=not buffer)
        data = bytes(buffer[:end])
        del buffer[: end + 4]
        try:
            return parse_response_head(data)
        except BadFraming as error:
            raise self.fault(str(error)) from None

    def switch(self, head: ResponseHead) -> None:
        if self.plan.upgrade is None or not self.uploaded:
            raise self.fault("it switches protocols unasked")
        self.client.write(serialise_response(head, Framing.NONE, close=False, upgrade=self.plan.upgrade))
        self.upgraded = True

    async def pump_response_length(self, left: int) -> None:
        buffer = self.upstream.buffer
        if not left:
            await self.give(b"")
        while left:
            if not buffer and not await self.upstream.more():
                raise self.fault("it hung up in the middle of its response")
            piece = bytes(buffer[:left])
            del buffer[:left]
            left -= len(piece)
            await self.give(piece)

    async def pump_response_chunks(self, *, rechunk: bool) -> None:
        body = ChunkedBody()
        while True:
            try:
                content = body.decode(self.upstream.buffer)
            except BadFraming as error:
                raise self.fault(str(error)) from None
            self.received += len(content)
            self.client.write(encode_chunk(content) if rechunk else content)
            if body.done:
                if rechunk:
                    self.client.write(encode_last_chunk(body.trailers))
                return
            left = len(self.upstream.buffer)
            await self.give(b"")
            if not await goes_on(body, self.upstream, left):
                raise self.fault("it hung up in the middle of its response")

    async def pump_response_to_end(self) -> None:
        while data := await self.upstream.receive():
            await self.give(data)

    async def give(self, data: bytes) -> None:
        """Write to the client and wait until it takes more."""
        self.received += len(data)
        if data:
            self.client.write(data)
        if not await self.client.drain():
            raise ClientFault("")

    def fault(self, what: str, *, silent: bool = False) -> UpstreamFault:
        return UpstreamFault(f"the server's answer is no proper HTTP: {what}", started=self.started, silent=silent)


async def goes_on(body: ChunkedBody, source: Stream, left: int) -> bool:
    """Wait for more of a chunked body; False when its source ended. `left`: what `decode` had left in its buffer."""
    if body.stopped:
        await source.poller.turn()
        return True
    return len(source.buffer) != left or await source.more()  # it may have come while the other side drained
