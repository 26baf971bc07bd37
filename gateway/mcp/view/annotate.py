"""Tell the caller which connections were blocked: `_meta["stockade/egress"]`, and one line of text where the call failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from egress.policy.remedy import remedy
from observability.events import Certainty, EgressEvent, cut

META_KEY: Final = "stockade/egress"
INCOMPLETE: Final = "This result may be incomplete, although the tool reports no error."
_DETAIL_LIMIT: Final = 300
"""Characters of a denial's detail in a result: there may be many denials."""

Denials = Sequence[tuple[EgressEvent, Certainty]]


def denial_line(event: EgressEvent, certainty: Certainty) -> str:
    """`Stockade blocked evil.example:443 (host_not_allowed). If the task needs it, ask the user to allow evil.example …`.

    A model reads it, so it names no command. What is no host name gets no advice: it cannot be allowed.
    """
    verb = "blocked" if certainty is Certainty.CERTAIN else "probably blocked"
    host = event.host or event.destination
    target = f"{host}:{event.port}" if event.port and event.host else host
    told = f"Stockade {verb} {target} ({event.reason})."
    named = event.rule_port is not None  # the policy has that port for every host
    found = remedy(event.reason, host, event.port, via=(event.via,), port_named=named)
    return told if found is None else f"{told} {found.for_model(event.backend)}"


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


def annotate_result(result: dict[str, Any], denials: Denials, swallowed: Denials = ()) -> dict[str, Any]:
    """The result with the denials in `_meta`, and in its text when it is an error.

    `swallowed`: those that its text names though it is no error, since the answer may rest on them.
    """
    meta = result.get("_meta")
    told = {**result, "_meta": {**(meta if isinstance(meta, dict) else {}), META_KEY: [_facts(*d) for d in denials]}}
    named = denials if result.get("isError") is True else swallowed
    if named:
        content = result.get("content")
        lines = list(dict.fromkeys(denial_line(*denial) for denial in named))
        if named is swallowed:
            lines.insert(0, INCOMPLETE)
        told["content"] = [
            *(content if isinstance(content, list) else []),
            {"type": "text", "text": "\n".join(lines)},
        ]
    return told


def text_of(result: dict[str, Any]) -> str:
    """What a result says in words."""
    content = result.get("content")
    parts = [item.get("text") for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    return "\n".join(part for part in parts if isinstance(part, str))


def with_line(result: dict[str, Any], line: str) -> dict[str, Any]:
    """The result with one more text."""
    content = result.get("content")
    return {**result, "content": [*(content if isinstance(content, list) else []), {"type": "text", "text": line}]}


def refused_lines(denials: Denials) -> list[str]:
    """A line for each thing that a server was refused outside of calls, for an error about it."""
    return list(dict.fromkeys(denial_line(*denial) for denial in denials))


def annotate_error(error: dict[str, Any], denials: Denials) -> dict[str, Any]:
    """The JSON-RPC error with the denials in its message and, where there is room, in its data."""
    lines = list(dict.fromkeys(denial_line(*denial) for denial in denials))
    told = {**error, "message": "\n".join([str(error.get("message", "")), *lines])}
    data = error.get("data")
    if data is None or isinstance(data, dict):
        told["data"] = {**(data or {}), META_KEY: [_facts(*denial) for denial in denials]}
    return told
