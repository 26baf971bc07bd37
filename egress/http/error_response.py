"""The proxy's own responses to a client: denials, limits and failures, each with its reason."""

from __future__ import annotations

from egress.policy.remedy import Kind, remedy
from observability.events import Reason

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

STATUS: dict[Reason, int] = {
    Reason.BAD_REQUEST: 400,
    Reason.HTTPS_WITHOUT_CONNECT: 400,
    Reason.TOO_LARGE: 400,
    Reason.HEAD_TIMEOUT: 408,
    Reason.LIMIT_RATE: 429,
    Reason.LIMIT_DNS: 429,
    Reason.LIMIT_CONNECTIONS: 503,
    Reason.SHUTDOWN: 503,
    Reason.DNS_FAILED: 502,
    Reason.CONNECT_FAILED: 502,
    Reason.HOST_LOOPBACK_ONLY: 502,
    Reason.UPSTREAM_INVALID: 502,
    Reason.UPSTREAM_PROXY_FAILED: 502,
    Reason.CONNECT_TIMEOUT: 504,
    Reason.IDLE_TIMEOUT: 504,
}
"""Everything else is a denial: 403."""


def error_response(reason: Reason, text: str, *, close: bool, with_body: bool = True) -> bytes:
    """A complete response. The reason is in the status line too: many programs show nothing else."""
    status = STATUS.get(reason, 403)
    body = text.encode("utf-8", "replace") + b"\n"
    lines = [
        f"HTTP/1.1 {status} {reason}",
        f"X-Stockade-Reason: {reason}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
    ]
    if status in (429, 503):
        lines.append("Retry-After: 1")
    if close:
        lines.append("Connection: close")
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    return head + body if with_body else head


def error_text(
    reason: Reason, *, backend: str, standalone: bool, host: str, port: int, detail: str, port_named: bool = False
) -> str:
    """What happened to a request for `host`:`port` and what to do about it.

    A program's errors end in a tool's result, so behind a door it is written for a model: it names no command to run.

    `port_named`: the policy names that port.
    """
    place = f"{host}:{port}" if host else "the request"
    verb = "could not reach" if STATUS.get(reason, 403) in (502, 504) else "blocked"
    text = f"Stockade {verb} {place} ({reason})" + (f": {detail}" if detail else "") + "."
    found = remedy(reason, host, port, port_named=port_named, standalone=standalone)
    if found is None or found.kind is Kind.HTTPS:  # the detail says it
        return text
    if not standalone:
        return f"{text}\n{found.for_model(backend)}"
    if found.kind is Kind.HOST:
        text += f"\nTo allow it, add {found.target} to allowed_hosts in the policy file."
    return text
