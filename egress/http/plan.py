"""From a parsed request to what goes out: the rebuilt head, and how its body is framed."""

from __future__ import annotations

from egress.http.exchange import RequestPlan
from egress.http.framing import Framing
from egress.http.request_head import BodyFraming, RequestHead, serialise
from egress.policy.parent_proxy import ParentProxy

FRAMING = {
    BodyFraming.NONE: Framing.NONE,
    BodyFraming.LENGTH: Framing.LENGTH,
    BodyFraming.CHUNKED: Framing.CHUNKED,
}


def plan_request(head: RequestHead, parent: ParentProxy | None) -> RequestPlan:
    """How a request is carried; `parent` is the parent proxy it goes to, which wants an absolute form."""
    data = serialise(head)
    if parent is not None:
        data = for_parent(data, head, parent)
    return RequestPlan(
        method=head.method,
        head=data,
        framing=FRAMING[head.framing],
        length=head.length,
        minor=head.version[1],
        keep_alive=head.keep_alive,
        upgrade=b"websocket" if head.upgrade else None,
        through_parent=parent is not None,
    )


def for_parent(data: bytes, head: RequestHead, parent: ParentProxy) -> bytes:
    """An origin-form head as a parent proxy wants it: absolute form, with our credentials."""
    method, _, rest = data.partition(b" ")
    first, _, fields = rest.partition(b"\r\n")
    path, _, version = first.rpartition(b" ")
    path = b"" if path == b"*" else path  # RFC 9112 3.2.4: OPTIONS for a whole server
    line = b"%b http://%b%b %b\r\n" % (method, head.target.authority.encode(), path, version)
    if parent.authorization is not None:
        line += b"Proxy-Authorization: %b\r\n" % parent.authorization
    return line + fields


def has_body(head: RequestHead) -> bool:
    return head.framing is not BodyFraming.NONE
