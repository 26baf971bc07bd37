"""JSON-RPC batches, which revision 2025-03-26 has and no other.

Its clients exist, and one that knows no later revision would find no server if we did not offer it. So its batches are
answered: one message after the other, in the order of the batch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.mcp.downstream.auth import Denied
from gateway.mcp.downstream.http import Refused, refusing
from gateway.mcp.downstream.shape import sound

BATCHING: Final = "2025-03-26"
MAX_BATCH: Final = 100
"""Messages of one batch."""
MAX_ANSWERS: Final = 32 * 1024 * 1024
"""Bytes of a batch's answers, which are kept until the last one is there; the rest of the batch is refused."""


async def answers_of(batch: list[Any], serve: Callable[[dict[str, Any]], Awaitable[bytes | None]]) -> list[bytes]:
    """The responses to a batch; `serve` gives the one to a message, or None. A message that is refused has an error as its
    answer and does not stop the others. Raises Refused (400, 413) for the batch as a whole, and what else `serve` raises.
    """
    if not batch:
        raise Refused(400, "A batch must hold at least one message")
    if len(batch) > MAX_BATCH:
        raise Refused(413, f"A batch may hold up to {MAX_BATCH} messages; this one has {len(batch)}")
    answers: list[bytes] = []
    size = 0
    for value in batch:
        try:
            message = sound(value)
            with refusing(message):
                if size > MAX_ANSWERS and "method" in message and "id" in message:
                    raise Refused(413, f"The answers before this one have more than {MAX_ANSWERS} bytes; ask again")
                said = await _served(message, serve)
        except Refused as refused:
            said = refused.body()
        if said is not None:
            size += len(said)
            answers.append(said)
    return answers


async def _served(
    message: dict[str, Any], serve: Callable[[dict[str, Any]], Awaitable[bytes | None]]
) -> bytes | None:
    try:
        return await serve(message)
    except Denied as denied:  # the client's token was taken back while the batch was served
        raise Refused(denied.status, denied.description) from denied
