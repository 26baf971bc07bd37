"""Removes what builds leave behind. Housekeeping: where the engine refuses or is slow, that is logged and work goes on.

An engine answers 409 while another prune runs, which can take minutes; the next build or start tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Final

from gateway.runtime.engine.base import ImageStore
from gateway.runtime.sandbox.errors import EngineError

logger = logging.getLogger(__name__)

TIDY_S: Final = 20.0
"""The longest that anybody waits for housekeeping."""


@contextlib.contextmanager
def housekeeping(what: str) -> Iterator[None]:
    """Logs that `what` could not be removed, instead of raising."""
    try:
        yield
    except (EngineError, TimeoutError) as error:
        why = error if isinstance(error, EngineError) else f"the engine did not answer within {TIDY_S:g} s."
        logger.warning("%s is not removed for now: %s", what, why)


async def tidy_stages(store: ImageStore, label: str, older_than: str = "") -> None:
    """`ImageStore.remove_stages`, which neither fails nor takes long."""
    with housekeeping(f"What earlier builds left ({label})"):
        async with asyncio.timeout(TIDY_S):
            await store.remove_stages(label, older_than)
