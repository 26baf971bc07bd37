"""What administrators see of the flaws in a backend's lists."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway.mcp.view.listing import Flaws, Kind, Listing
from observability.events import NoticeEvent, Severity


def left_out(backend: str, kind: Kind, flaws: Flaws) -> NoticeEvent | None:
    """The notice for items of a list that cannot be shown to clients; None when there are none."""
    if not flaws.left_out:
        return None
    return NoticeEvent(
        time=time.time(),
        source="gateway",
        code="items_left_out",
        severity=Severity.WARNING,
        backend=backend,
        message=f"Server {backend}: {flaws.missing(kind)}",
        count=flaws.left_out,
    )


def describe(lists: Mapping[Kind, Listing]) -> dict[str, list[str]]:
    """What was `left_out` of the lists, and what was `reshaped`, in sentences."""
    flaws = [(kind, listing.flaws) for kind, listing in lists.items()]
    return {
        "left_out": [found.missing(kind) for kind, found in flaws if found.left_out],
        "reshaped": [found.reshaped(kind) for kind, found in flaws if found.changed],
    }
