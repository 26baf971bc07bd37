"""What a backend catalog, read while it changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.mcp.call.messages import About, Call
from gateway.mcp.call.outcome import Result
from gateway.mcp.upstream.catalog import BackendCatalog
from gateway.mcp.view.listing import Kind
from gateway.mcp.wire.tasks import Tasks

pytestmark = pytest.mark.anyio
WATCHED = {"tools": {"listChanged": True}}


class Slow:
    """A connection whose answers a test gives."""

    def __init__(self, capabilities: dict[str, Any]) -> None:
        self.modern = False
        self.about = About(False, "2025-11-25", {}, capabilities, None, {})
        self.asked: asyncio.Queue[Call] = asyncio.Queue()

    async def send(self, call: Call) -> None:
        self.asked.put_nowait(call)

    async def answer(self, tool: str) -> None:
        async with asyncio.timeout(30):
            call = await self.asked.get()
        call.end(Result({"tools": [{"name": tool, "inputSchema": {}}]}))


class Backend:
    """Of one connection."""

    name = "one"
    call_timeout_s = 30.0

    def __init__(self, capabilities: dict[str, Any]) -> None:
        self.slow = Slow(capabilities)
        self.tasks = Tasks()

    async def peer(self, caller: Any) -> Any:
        return self.slow

    def ready(self, caller: Any) -> None:
        return None

    async def outcome(self, task: asyncio.Task[Any]) -> Any:
        return await asyncio.shield(task)


def names(listing: Any) -> list[str]:
    return [item["name"] for item in listing.items]


async def test_a_change_told_right_behind_the_answer_is_not_forgotten() -> None:
    backend = Backend(WATCHED)
    catalog = BackendCatalog(backend)
    reading = asyncio.ensure_future(catalog.listing(Kind.TOOLS))
    await backend.slow.answer("old")
    catalog.stale((Kind.TOOLS,), backend.slow)  # type: ignore[arg-type]  # before the reader has its turn
    assert names(await reading) == ["old"]
    reading = asyncio.ensure_future(catalog.listing(Kind.TOOLS))
    await backend.slow.answer("new")
    assert names(await reading) == ["new"]
    assert names(await catalog.listing(Kind.TOOLS)) == ["new"], "which is watched, so nobody is asked"


async def test_who_must_know_what_is_now_takes_no_answer_to_an_older_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.mcp.view.listing.FRESH_S", 0.0)
    backend = Backend({"tools": {}})
    catalog = BackendCatalog(backend)
    before = asyncio.ensure_future(catalog.listing(Kind.TOOLS))
    async with asyncio.timeout(30):
        while backend.slow.asked.empty():
            await asyncio.sleep(0)
    joined = asyncio.ensure_future(catalog.listing(Kind.TOOLS))
    judge = asyncio.ensure_future(catalog.listing(Kind.TOOLS, anew=True))
    await asyncio.sleep(0)
    await backend.slow.answer("old")
    assert names(await before) == names(await joined) == ["old"]
    await backend.slow.answer("new")
    assert names(await judge) == ["new"]
