"""What a door could not do, as the egress and the gateway learn of it. Standard library only."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class NoteKind(StrEnum):
    """What a note is about."""

    NO_LOOPBACK = "no_loopback"
    NO_ROUTE = "no_route"
    """Without the AnyIP route, direct connections fail in the backend's own kernel and reach no listener."""
    PRIVILEGES = "privileges"
    """A privilege could not be given up."""


class Note(NamedTuple):
    """One of them; `text` is a sentence for a person."""

    kind: NoteKind
    text: str
