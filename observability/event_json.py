"""An event as one JSON object, and back. The egress container holds this module too: standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from observability.events import (
    BackendEvent,
    BackendState,
    CallEvent,
    CallRef,
    Decision,
    EgressEvent,
    Event,
    NoticeEvent,
    Phase,
    Reason,
    Severity,
    ToolChange,
    ToolEvent,
    Via,
)

_KINDS: dict[str, type[Any]] = {
    "egress": EgressEvent,
    "call": CallEvent,
    "backend": BackendEvent,
    "tool": ToolEvent,
    "notice": NoticeEvent,
}
_KIND_OF = {cls: kind for kind, cls in _KINDS.items()}
_FIELDS = {
    kind: [(spec.name, spec.default) for spec in dataclasses.fields(kind)] for kind in (*_KINDS.values(), CallRef)
}
"""Name and default of each field: this runs for each event."""
_ENUMS: dict[tuple[str, str], type[StrEnum]] = {
    ("egress", "phase"): Phase,
    ("egress", "via"): Via,
    ("egress", "decision"): Decision,
    ("egress", "reason"): Reason,
    ("backend", "state"): BackendState,
    ("tool", "change"): ToolChange,
    ("notice", "severity"): Severity,
}


def kind_of(event: Event) -> str:
    """`egress`, `call`, `backend`, `tool` or `notice`."""
    return _KIND_OF[type(event)]


def to_json(event: Event) -> dict[str, Any]:
    """The event as a JSON object; `kind` says which class it is, fields at their default are left out."""
    data: dict[str, Any] = {"kind": _KIND_OF[type(event)]}
    for name, default in _FIELDS[type(event)]:
        value = getattr(event, name)
        if value == default and name != "decision":
            continue
        if name == "calls":
            data["calls"] = [ref_json(call) for call in value]
        elif isinstance(value, tuple):
            data[name] = list(value)
        else:
            data[name] = value
    return data


def ref_json(call: CallRef) -> dict[str, str]:
    """A reference as a JSON object, without the fields at their default."""
    return {name: value for name, default in _FIELDS[CallRef] if (value := getattr(call, name)) != default}


def event_from_json(data: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote. Unknown fields are ignored (a newer writer).

    Raises ValueError for an unknown kind, a missing field or a word outside a vocabulary.
    """
    kind = data.get("kind")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None or not isinstance(kind, str):
        raise ValueError(f"unknown event kind {kind!r}")
    values: dict[str, Any] = {}
    for spec in dataclasses.fields(cls):
        if spec.name not in data:
            continue
        value = data[spec.name]
        enum = _ENUMS.get((kind, spec.name))
        if enum is not None and value is not None:
            value = enum(value)
        elif spec.name == "calls":
            value = tuple(CallRef(**call) for call in value)
        elif spec.name == "denied":
            value = tuple(value)
        values[spec.name] = value
    try:
        return cls(**values)  # type: ignore[no-any-return]  # every class in _KINDS is an Event
    except TypeError as error:
        raise ValueError(f"{kind} event: {error}") from None
