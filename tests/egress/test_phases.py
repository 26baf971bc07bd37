"""The phases of a connection without a socket: any bytes, in any pieces, with any end."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.connection.phases import (
    LINGER_BYTES,
    Deciding,
    Dialling,
    Exchanging,
    Lingering,
    Opening,
    OpeningDirect,
    Peeking,
    ReadingHead,
    ReadingInner,
    Sniffing,
)
from egress.connection.steps import (
    ENDED,
    KEEP_WAITING,
    Broken,
    Denied,
    End,
    Misplaced,
    Named,
    Phase,
    Refusal,
    Refused,
    Rejected,
    Step,
    Tunnel,
    Unused,
    Wait,
)
from egress.http.exchange import ClientFault, Exchange, RequestPlan, UpstreamFault
from egress.http.framing import BadFraming, ChunkedBody, Framing
from egress.http.request_head import parse_head
from egress.net.dial_error import DialError
from egress.policy.budget import Budget
from egress.policy.decide import Allow, Mode, Target, parse_policy
from observability.events import Reason
from tests.egress.harness import OK, client_hello

NAME, OTHER = "api.example.com", "other.example.com"
ALLOW = Allow(rule=None)
ADDRESS = ipaddress.ip_address("192.0.2.7")
POLICY = {"allowed_hosts": [{"host": NAME, "port": port} for port in (80, 443)]}
HELLO, WRONG = client_hello(NAME), client_hello(OTHER)
CLOSING = (Rejected, Denied, Misplaced, Broken, End, Unused, Tunnel)
"""Steps after which no byte of the client is read as a request."""


def rules(mode: str = "enforce") -> Any:
    return SimpleNamespace(budget=Budget(), policy=parse_policy({**POLICY, "mode": mode}))


def get(host: str = NAME, *, path: str = "/", more: str = "", method: str = "GET") -> bytes:
    return f"{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def connect(host: str = NAME) -> bytes:
    return f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode()


def inner(host: str = NAME) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode()


PARTS = (
    get(),
    get(OTHER),
    get(more="Connection: close\r\n"),
    get(method="POST", more="Content-Length: 5\r\n") + b"hello",
    get(method="POST", more="Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n0\r\n\r\n",
    connect(),
    connect(OTHER),
    inner(),
    inner(OTHER),
    HELLO,
    WRONG,
    client_hello(None),
    b"SSH-2.0-x\r\n",
    b"\r\n",
    b"GET /",
    b"\x16\x03\x01",
)


@dataclasses.dataclass
class Driven:
    """A connection that is driven without I/O: what it did, and how it stands."""

    rules: Any
    phase: Phase
    trace: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    buffer: bytearray = dataclasses.field(default_factory=bytearray)
    over: bool = False

    def feed(self, piece: bytes, *, eof: bool = False) -> None:
        """Bytes from the client; all steps that they lead to."""
        self.buffer += piece
        while not self.over:
            step = self.phase.received(self.buffer, eof)
            if isinstance(step, Wait):
                assert not eof, "a phase that reads must not wait for more after the end"
                return
            if step is self.phase:
                continue
            self.follow(step)

    def follow(self, step: Step) -> None:
        """Apply one step as the driver does, with a server that answers every request at once."""
        match step:
            case Deciding():
                allowed = step.head.target.host == NAME
                self.trace.append(("decide", step.head.method, step.head.target.host))
                self.follow(step.dial("asking", ADDRESS, ALLOW) if allowed else step.wait("asking"))
            case Dialling():
                self.trace.append(("dial", step.head.target.host))
                self.follow(step.opened("link"))
            case Opening():
                self.follow(step.refused(Refusal(reason=Reason.HOST_NOT_ALLOWED, detail="", denied=True)))
            case Refused():
                self.trace.append(("refused", step.refusal.reason, step.keep))
                self.follow(ReadingHead(self.rules) if step.keep else Lingering())
            case Exchanging():
                self.exchange(step)
            case Lingering():
                self.trace.append(("linger",))
                self.over = True
            case Phase():
                self.phase = step
            case _:
                assert isinstance(step, CLOSING)
                self.trace.append(
                    (type(step).__name__, getattr(step, "reason", None), getattr(step, "mismatch", None))
                )
                self.over = True

    def exchange(self, step: Exchanging[Any]) -> None:
        exchange = step.exchange
        self.trace.append(("request", step.head.method, step.head.target.host, exchange.plan.head))
        while not exchange.uploaded:  # what has come of its body; the server waits for no more
            try:
                if not exchange.from_client(self.buffer, False):
                    break
            except ClientFault as fault:
                self.follow(step.ended(fault, expired=False))
                return
        assert exchange.from_upstream(bytearray(OK), False)
        assert exchange.answered
        self.follow(step.ended(None, expired=False))


def drive(pieces: list[bytes], mode: str, *, eof: bool) -> Driven:
    driven = Driven(rules(mode), ReadingHead(rules(mode)))
    for piece in pieces:
        driven.feed(piece)
    if eof:
        driven.feed(b"", eof=True)
    return driven


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@st.composite
def conversations(draw: st.DrawFn, parts: tuple[bytes, ...] = PARTS) -> bytes:
    """What a client may send: good parts, bad ones, damaged ones."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(parts), min_size=1, max_size=5))))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


BODILESS = tuple(part for part in PARTS if not part.startswith(b"POST"))
"""A server that answers before the body has come ends the connection, wherever the cut is."""
PLACES = st.lists(st.integers(0, 5000), max_size=8)
MODES = st.sampled_from(["enforce", "report"])


@given(data=conversations(BODILESS), places=PLACES, mode=MODES, eof=st.booleans())
def test_any_pieces_of_the_same_bytes_lead_to_the_same_steps(
    data: bytes, places: list[int], mode: str, eof: bool
) -> None:
    assert drive(cut(data, places), mode, eof=eof).trace == drive([data], mode, eof=eof).trace


@given(data=conversations(), places=PLACES, mode=MODES)
def test_a_head_that_is_not_allowed_never_dials_and_sends_nothing(data: bytes, places: list[int], mode: str) -> None:
    trace = drive(cut(data, places), mode, eof=True).trace
    assert all(host == NAME for kind, host, *_ in (step for step in trace if step[0] == "dial"))
    for kind, *rest in trace:
        if kind == "request" and mode == "enforce":
            assert rest[1] == NAME
    for before, after in itertools.pairwise(trace):
        if before[0] == "decide" and before[2] != NAME:
            assert after[0] == "refused"


@given(data=conversations(), places=PLACES, mode=MODES)
def test_every_connection_ends_when_its_client_does_and_ends_once(data: bytes, places: list[int], mode: str) -> None:
    driven = drive(cut(data, places), mode, eof=True)
    assert driven.over
    ends = [step for step in driven.trace if step[0] == "linger" or step[0] in {kind.__name__ for kind in CLOSING}]
    assert len(ends) == 1
    assert driven.trace[-1] == ends[0]


@given(data=conversations(), mode=MODES)
def test_a_deadline_ends_the_connection_at_any_moment(data: bytes, mode: str) -> None:
    for end in range(0, len(data) + 1, max(1, len(data) // 40)):
        driven = drive([data[:end]], mode, eof=False)
        if not driven.over:
            assert isinstance(driven.phase.deadline(driven.buffer), CLOSING)


def some_phases() -> Iterator[Phase]:
    head, target = parse_head(get()), Target(host=NAME, ip=None, port=80)
    assert head is not None
    held = rules()
    yield ReadingHead(held)
    yield ReadingInner(held, target, "link")
    yield Sniffing(held, target, "link")
    yield Exchanging(held, head, "link", None)
    yield Lingering()
    yield Peeking()


@pytest.mark.parametrize("phase", list(some_phases()), ids=lambda phase: type(phase).__name__)
@pytest.mark.parametrize("buffer", [b"", b"GET /", b"\x16\x03"], ids=["nothing", "http", "tls"])
def test_a_deadline_in_every_phase_is_an_end(phase: Phase, buffer: bytes) -> None:
    step = phase.deadline(bytearray(buffer))
    assert isinstance(step, (*CLOSING, Named))


def test_a_dial_that_took_too_long_is_not_tried_again_and_the_next_address_is() -> None:
    head = parse_head(connect())
    assert head is not None
    late = DialError(Reason.CONNECT_TIMEOUT, "late")
    step = Deciding(rules(), head).dial("asking", ADDRESS, ALLOW).failed(late)
    assert isinstance(step, Opening)
    assert step.failed == (ADDRESS, late)


@given(data=st.binary(max_size=200), eof=st.booleans())
def test_what_lingers_reads_and_drops_until_the_end(data: bytes, eof: bool) -> None:
    phase, buffer = Lingering(), bytearray(data)
    assert phase.received(buffer, eof) is (ENDED if eof else KEEP_WAITING)
    assert not buffer
    assert phase.received(bytearray(LINGER_BYTES), False) is ENDED


@given(data=conversations(), places=PLACES)
def test_a_direct_connection_shows_the_same_name_in_any_pieces(data: bytes, places: list[int]) -> None:
    def shown(pieces: list[bytes]) -> Step:
        phase, buffer = Peeking(), bytearray()
        for piece in pieces:
            buffer += piece
            if not isinstance(step := phase.received(buffer, False), Wait):
                return step
        return phase.received(buffer, True)

    assert shown(cut(data, places)) == shown([data])


@pytest.mark.parametrize(
    ("mode", "first", "reason"),
    [("enforce", HELLO, None), ("enforce", WRONG, Reason.SNI_MISMATCH), ("report", WRONG, Reason.SNI_MISMATCH)],
)
def test_the_first_bytes_of_a_direct_connection_are_checked_too(
    mode: str, first: bytes, reason: Reason | None
) -> None:
    opening = OpeningDirect(rules(mode), Target(host=NAME, ip=None, port=443), "asking")
    sniffing = opening.opened("link", ALLOW)
    assert isinstance(sniffing, Sniffing)
    step = sniffing.received(bytearray(first), False)
    if mode == "enforce" and reason is not None:
        assert isinstance(step, Denied)
        assert step.reason is reason
    else:
        assert step == Tunnel("link", mismatch=reason)
        assert rules(mode).policy.mode in (Mode.ENFORCE, Mode.REPORT)


# --- exchanges

RESPONSES = (
    OK,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + bytes(900),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200 + b"0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"220 ftp.example.com\r\n",
)


@dataclasses.dataclass
class Carried:
    """How an exchange ended."""

    received: int
    started: bool
    answered: bool
    upgraded: bool
    fault: tuple[str, Reason] | None
    content: bytes


def carried(pieces: list[bytes], plan: RequestPlan) -> Carried:
    """How an exchange ends when the response comes in these pieces and the upstream ends after them."""
    exchange, buffer, out = Exchange(plan), bytearray(), b""
    fault: UpstreamFault | None = None
    try:
        for number, piece in enumerate([*pieces, b""]):
            buffer += piece
            eof = number == len(pieces)
            while not exchange.answered:
                data = exchange.from_upstream(buffer, eof)
                out += data
                assert data or not eof or exchange.answered or exchange.stopped, "it would wait for bytes for ever"
                if not data and not exchange.stopped:
                    break
    except UpstreamFault as error:
        fault = error
    told = (fault.detail, fault.reason) if fault is not None else None
    return Carried(exchange.received, exchange.started, exchange.answered, exchange.upgraded, told, content(out))


def content(out: bytes) -> bytes:
    """What a client reads: the same, whatever the size of the chunks."""
    head, _, body = out.rpartition(b"\r\n\r\n") if b"chunked" not in out else out.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return out
    reader, buffer, read = ChunkedBody(), bytearray(body), b""
    try:
        while True:
            read += reader.decode(buffer)
            if not reader.stopped:
                return head + read + bytes(buffer)
    except BadFraming as error:  # what we send is well-formed
        raise AssertionError(out) from error


@given(
    data=conversations(RESPONSES),
    places=PLACES,
    minor=st.sampled_from([0, 1]),
    method=st.sampled_from(["GET", "HEAD"]),
    upgrade=st.sampled_from([None, b"websocket"]),
)
def test_a_response_in_any_pieces_is_passed_on_alike(
    data: bytes, places: list[int], minor: int, method: str, upgrade: bytes | None
) -> None:
    plan = RequestPlan(method=method, head=b"", framing=Framing.NONE, minor=minor, upgrade=upgrade)
    whole, split = carried([data], plan), carried(cut(data, places), plan)
    if whole.fault is None:
        assert split == whole
    else:
        assert split.fault is not None, "what is malformed is malformed in any pieces"


@given(
    body=st.sampled_from([b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n"]),
    places=PLACES,
    missing=st.integers(0, 3),
)
def test_a_body_in_any_pieces_arrives_whole_or_is_a_fault(body: bytes, places: list[int], missing: int) -> None:
    framing = Framing.LENGTH if body == b"hello" else Framing.CHUNKED
    exchange = Exchange(RequestPlan(method="POST", head=b"", framing=framing, length=5))
    buffer, out = bytearray(), b""
    pieces = cut(body[: len(body) - missing], places)
    try:
        for number, piece in enumerate([*pieces, b""]):
            buffer += piece
            while not exchange.uploaded and (data := exchange.from_client(buffer, number == len(pieces))):
                out += data
    except ClientFault:
        assert missing
        assert not exchange.uploaded
        return
    assert exchange.uploaded is not bool(missing)
    assert exchange.sent == len(out)
    if framing is Framing.LENGTH:
        assert out == body
    else:
        assert ChunkedBody().decode(bytearray(out)) == b"hello"


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"200 OK"])
def test_what_a_server_sends_unasked_leaves_its_connection_unfit(status: bytes) -> None:
    exchange = Exchange(RequestPlan(method="GET", head=b"", framing=Framing.NONE))
    buffer = bytearray(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nokpoison")
    if status.startswith(b"101"):
        with pytest.raises(UpstreamFault, match="unasked"):
            exchange.from_upstream(buffer, False)
        return
    assert exchange.from_upstream(buffer, False).endswith(b"ok")
    assert exchange.answered
    assert not exchange.upstream_reusable
