"""Tell the caller which connections were blocked: `_meta["stockade/egress"]`, and one line of text where the call failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from egress.policy.liftable import liftable
from observability.events import Certainty, EgressEvent, Reason, cut

META_KEY: Final = "stockade/egress"
_DETAIL_LIMIT: Final = 300
"""Characters of a denial's detail in a result: there may be many denials."""
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]*")

Denials = Sequence[tuple[EgressEvent, Certainty]]


def denial_line(event: EgressEvent, certainty: Certainty) -> str:
    """`Stockade blocked evil.example:443 (host_not_allowed). To allow it: stockade egress allow fetch …`.

    Advice is given where one more host in the policy would lift the denial. What is no host name gets none: it cannot
    be allowed, and people paste advice into shells.
    """
    verb = "blocked" if certainty is Certainty.CERTAIN else "probably blocked"
    host = event.host or event.destination
    target = f"{host}:{event.port}" if event.port and event.host else host
    told = f"Stockade {verb} {target} ({event.reason})."
    if not liftable(event.reason, host) or not _HOST.fullmatch(host):
        return told
    named = event.port == 0 or event.rule_port is not None  # the policy has that port for every host
    usual = named and event.reason is not Reason.PORT_NOT_ALLOWED
    return f"{told} To allow it: stockade egress allow {event.backend} {host if usual else target}"


def _facts(event: EgressEvent, certainty: Certainty) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "host": event.host or event.destination,
        "port": event.port,
        "reason": str(event.reason),
        "certainty": str(certainty),
        "connection": f"{event.epoch}/{event.connection}",
    }
    if event.detail:
        facts["detail"] = cut(event.detail, _DETAIL_LIMIT)
    return facts


def short(denials: Denials) -> tuple[str, ...]:
    """`HOST:PORT (reason)` for each."""
    return tuple(f"{event.host or event.destination}:{event.port} ({event.reason})" for event, _ in denials)


def annotate_result(result: dict[str, Any], denials: Denials) -> dict[str, Any]:
    """The result with the denials in `_meta`, and in its text when it is an error."""
    meta = result.get("_meta")
    told = {**result, "_meta": {**(meta if isinstance(meta, dict) else {}), META_KEY: [_facts(*d) for d in denials]}}
    if result.get("isError") is True:
        content = result.get("content")
        lines = list(dict.fromkeys(denial_line(*denial) for denial in denials))
        told["content"] = [
            *(content if isinstance(content, list) else []),
            {"type": "text", "text": "\n".join(lines)},
        ]
    return told


def annotate_error(error: dict[str, Any], denials: Denials) -> dict[str, Any]:
    """The JSON-RPC error with the denials in its message and, where there is room, in its data."""
    lines = list(dict.fromkeys(denial_line(*denial) for denial in denials))
    told = {**error, "message": "\n".join([str(error.get("message", "")), *lines])}
    data = error.get("data")
    if data is None or isinstance(data, dict):
        told["data"] = {**(data or {}), META_KEY: [_facts(*denial) for denial in denials]}
    return told
