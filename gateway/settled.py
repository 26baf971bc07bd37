"""When a start is over: every backend that starts with the gateway has run for a moment, or is known not to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Final

from gateway.runtime.supervise.keeper import InstanceKeeper
from observability.events import BackendState
from observability.hub import Hub

HELD_S: Final = 1.0
"""A backend that runs for so long has started; one that ends sooner ended at once."""
LOOK_AGAIN_S: Final = 60.0


async def settled(hub: Hub, keepers: Callable[[], Iterable[InstanceKeeper]]) -> None:
    """Waits until no start is open any more; looks again at each event."""
    with hub.subscribe() as changes:
        while (left_s := max(map(unsettled_s, keepers()), default=0.0)) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await anext(changes)


def unsettled_s(keeper: InstanceKeeper) -> float:
    """How long to wait, at most, before looking again whether a backend's start held; 0 when that is known."""
    if keeper.once or keeper.done.is_set():
        return 0.0
    match keeper.state:
        case BackendState.STOPPED | BackendState.BUILDING | BackendState.STARTING:
            return LOOK_AGAIN_S
        case BackendState.RUNNING:
            return max(0.0, keeper.since + HELD_S - time.time())
        case _:
            return 0.0
