"""One plain HTTP request and its response as a state machine: bytes of either side in, bytes for the other side out.

Theory of operation
-------------------
The request's head was parsed, decided and rebuilt before it comes here. `from_client` and `from_upstream` take what has
arrived off a buffer and return what goes out, each as often as bytes come; a server may answer before it has read the whole
request. Everything that leaves is framed by us. Nothing is held back here, so a body of any size costs a constant amount of
memory when the caller waits for the other side to take what it was sent.

An upstream connection is used again only when the response ended exactly where its framing said, with nothing
after it: whatever a server sends unasked never becomes the answer to the next request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
from egress.http.head_end import END, MAX_HEAD, BadHead, HeadScan
from observability.events import Reason

MAX_INTERIM = 16


@dataclass(slots=True, kw_only=True)
class RequestPlan:
    """How one request is forwarded. Treat it as immutable."""

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
    """Whether a parent proxy answers, which may ask for our credentials, not the client's."""


class UpstreamFault(Exception):
    """Raised when the upstream's response is malformed, ends in its middle, or is not for the client."""

    def __init__(self, detail: str, *, silent: bool = False, reason: Reason = Reason.UPSTREAM_INVALID) -> None:
        super().__init__(detail)
        self.detail = detail
        self.silent = silent
        """Whether the upstream hung up without sending anything."""
        self.reason = reason


class ClientFault(Exception):
    """Raised when the client's body is malformed (`detail` says how) or ends in its middle (`detail` is empty)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Body(Protocol):
    """A message body that is taken off a buffer piece by piece."""

    stopped: bool
    """`decode` left usable bytes in the buffer, so that other connections have their turn first."""

    @property
    def done(self) -> bool: ...

    def decode(self, buffer: bytearray) -> bytes:
        """Take what there is of the body off the buffer. Raises BadFraming."""


class SizedBody:
    """A body of a known length."""

    __slots__ = ("left",)
    stopped = False

    def __init__(self, length: int) -> None:
        self.left = length

    @property
    def done(self) -> bool:
        return not self.left

    def decode(self, buffer: bytearray) -> bytes:
        piece = bytes(buffer[: self.left])
        del buffer[: len(piece)]
        self.left -= len(piece)
        return piece


class BodyToEnd:
    """A body that ends with its connection."""

    __slots__ = ()
    stopped = False
    done = False

    def decode(self, buffer: bytearray) -> bytes:
        data = bytes(buffer)
        buffer.clear()
        return data


NO_BODY = SizedBody(0)


class Exchange:
    """One request and its response.

    First send `plan.head`; then call `from_client` until `uploaded`, `from_upstream` until `answered`.
    """

    __slots__ = (
        "answered",
        "client_reusable",
        "interim",
        "plan",
        "received",
        "request_body",
        "response",
        "scan",
        "sent",
        "started",
        "upgraded",
        "uploaded",
        "upstream_reusable",
    )

    def __init__(self, plan: RequestPlan, *, sent: int = 0, received: int = 0) -> None:
        """`sent` and `received` were counted on this connection before."""
        self.plan = plan
        self.sent = sent + len(plan.head)
        """Bytes that went out: the head too, since a URL carries as much as a body, and how chunks are framed."""
        self.received = received
        """Bytes of body that came back."""
        self.uploaded = plan.framing is Framing.NONE
        """The whole request has been taken from the client."""
        self.request_body: Body = NO_BODY
        if not self.uploaded:
            self.request_body = ChunkedBody() if plan.framing is Framing.CHUNKED else SizedBody(plan.length)
        self.response: ResponseBody | None = None
        """Set once the response's head has been read."""
        self.interim = 0
        """Heads of interim responses (1xx) that came."""
        self.scan: HeadScan | None = None
        """Made when a head comes in pieces."""
        self.started = False
        """A part of the response has gone to the client."""
        self.answered = False
        """The whole response has been returned."""
        self.upgraded = False
        """The upstream switched protocols: both connections are one tunnel from now on."""
        self.upstream_reusable = False
        self.client_reusable = False

    # --- the request's body

    def from_client(self, buffer: bytearray, eof: bool) -> bytes:
        """What of the request's body goes to the upstream now; nothing: wait for more. Raises ClientFault."""
        body = self.request_body
        try:
            content = body.decode(buffer)
        except BadFraming as error:
            raise ClientFault(str(error)) from None
        self.uploaded = body.done
        if eof and not content and not body.done and not body.stopped:
            raise ClientFault("")
        if isinstance(body, ChunkedBody):
            content = encode_chunk(content) + (encode_last_chunk(body.trailers) if body.done else b"")
        self.sent += len(content)
        return content

    # --- the response

    def from_upstream(self, buffer: bytearray, eof: bool) -> bytes:
        """What of the response goes to the client now; nothing, and not `answered`: wait for more. Raises UpstreamFault.

        Never nothing at the end of the upstream (`eof`), except where `stopped`.
        """
        if self.response is not None:
            return self.read_body(self.response, buffer, eof)
        plan = self.plan
        while (head := self.read_head(buffer, eof)) is not None:
            status = head.status
            if status == 407 and plan.through_parent:
                detail = "the upstream proxy does not accept our credentials (it answered 407)"
                raise UpstreamFault(detail, reason=Reason.UPSTREAM_PROXY_FAILED)
            if status >= 200:
                return self.begin_response(head, buffer, eof)
            if status == 101:
                return self.switch(head)
            self.interim += 1
            if plan.minor == 1:
                return serialise_response(head, Framing.NONE, close=False)
        return b""

    def read_head(self, buffer: bytearray, eof: bool) -> ResponseHead | None:
        """The next head, None while it has not come."""
        if self.interim == MAX_INTERIM:
            raise improper("it sends interim responses without end")
        scan = self.scan
        end = buffer.find(END, 0, MAX_HEAD) if scan is None else scan.find(buffer)
        if end < 0:
            if scan is None:
                scan = self.scan = HeadScan("response head", max_fields=MAX_HEADERS)
            try:
                scan.check(buffer)
            except BadHead as error:
                raise improper(str(error)) from None
            if eof:
                raise improper("it hung up before its response was complete", silent=not buffer)
            return None
        self.scan = None
        data = bytes(buffer[:end])
        del buffer[: end + len(END)]
        try:
            return parse_response_head(data)
        except BadFraming as error:
            raise improper(str(error)) from None

    def begin_response(self, head: ResponseHead, buffer: bytearray, eof: bool) -> bytes:
        plan = self.plan
        framing = response_framing(head, plan.method)
        outgoing = Framing.CLOSE if framing is Framing.CHUNKED and plan.minor == 0 else framing
        reusable = self.client_reusable = plan.keep_alive and outgoing is not Framing.CLOSE and self.uploaded
        self.started = True
        data = serialise_response(head, outgoing, close=not reusable)
        length = head.length or 0 if framing is Framing.LENGTH else 0
        if (framing is Framing.LENGTH or framing is Framing.NONE) and len(buffer) >= length:
            if length:
                data += buffer[:length]
                del buffer[:length]
                self.received += length
            self.answered = True
            self.upstream_reusable = not buffer and not eof and self.uploaded and head.keep_alive
            return data
        self.response = ResponseBody(head, framing, outgoing)
        return data  # it goes out even when what follows turns out to be malformed

    def read_body(self, response: ResponseBody, buffer: bytearray, eof: bool) -> bytes:
        body = response.body
        try:
            content = body.decode(buffer)
        except BadFraming as error:
            raise improper(str(error)) from None
        self.received += len(content)
        if body.done or (eof and not content and response.framing is Framing.CLOSE):
            self.answered = True
            clean = not buffer and not eof and response.framing is not Framing.CLOSE
            self.upstream_reusable = clean and self.uploaded and response.keep_alive
        elif eof and not content and not body.stopped:
            raise improper("it hung up in the middle of its response")
        if response.outgoing is not Framing.CHUNKED or not isinstance(body, ChunkedBody):
            return content
        return encode_chunk(content) + (encode_last_chunk(body.trailers) if body.done else b"")

    def switch(self, head: ResponseHead) -> bytes:
        if self.plan.upgrade is None or not self.uploaded:
            raise improper("it switches protocols unasked")
        self.upgraded = self.answered = True
        return serialise_response(head, Framing.NONE, close=False, upgrade=self.plan.upgrade)

    @property
    def stopped(self) -> bool:
        """Usable bytes of the response wait in the buffer: other connections have their turn first."""
        return self.response is not None and self.response.body.stopped


class ResponseBody:
    """A response's body on its way."""

    __slots__ = ("body", "framing", "keep_alive", "outgoing")

    def __init__(self, head: ResponseHead, framing: Framing, outgoing: Framing) -> None:
        self.framing = framing
        self.outgoing = outgoing
        """How it is framed for the client."""
        self.keep_alive = head.keep_alive
        """The upstream takes another request afterwards."""
        self.body: Body
        match framing:
            case Framing.LENGTH:
                self.body = SizedBody(head.length or 0)
            case Framing.CHUNKED:
                self.body = ChunkedBody()
            case Framing.CLOSE:
                self.body = BodyToEnd()
            case Framing.NONE:  # nothing is left to read: `begin_response` returned it whole
                self.body = NO_BODY


def improper(what: str, *, silent: bool = False) -> UpstreamFault:
    return UpstreamFault(f"the server's answer is no proper HTTP: {what}", silent=silent)
