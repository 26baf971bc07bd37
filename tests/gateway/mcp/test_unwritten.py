"""A call that failed since its server could not write: the line of the entry that helps is added, as advice alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import config, gateway, server
from tests.gateway.mcp.test_stray import STRAY

pytestmark = pytest.mark.anyio
EROFS = "EROFS: read-only file system, open '/data/memory.jsonl'"
LINE = (
    "Stockade, about server stray: it cannot write to /data/memory.jsonl in its container. "
    "If the task needs it, ask the user to write `storage: /data` in its entry."
)


def result(text: str, *, error: bool = True) -> str:
    content = [{"type": "text", "text": "before"}, {"type": "image", "data": "", "mimeType": "image/png"}]
    said = {"content": [*content, {"type": "text", "text": text}], "isError": error}
    return f'{{"jsonrpc":"2.0","id":ID,"result":{json.dumps(said)}}}\n'


async def said(text: str, connect: Any = legacy, entry: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The answer to a call to which the server says `text`."""
    chosen = config({"stray": server(call_timeout_s=20, **(entry or {}))}, **more)
    async with gateway(chosen, {"stray": STRAY}) as running, connect(running.url("stray")) as client:
        found: dict[str, Any] = await client.call("say", {"text": text})
        return found


def texts(answer: dict[str, Any]) -> list[str]:
    return [item["text"] for item in answer["result"]["content"] if item["type"] == "text"]


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_an_error_of_a_server_that_could_not_write_names_the_line_that_helps(connect: Any) -> None:
    answer = await said(result(EROFS), connect)
    assert texts(answer) == ["before", EROFS, LINE]
    assert answer["result"]["isError"] is True


async def test_what_the_entry_has_already_is_seen() -> None:
    answer = await said(result("[Errno 30] Read-only file system: '/d/x'"), entry={"mounts": ["/srv:/d:ro"]})
    assert "/d/x is in /d, which is mounted with `:ro`" in texts(answer)[-1]


async def test_an_error_answer_says_it_too() -> None:
    error = {"code": -32603, "message": EROFS}
    answer = await said(f'{{"jsonrpc":"2.0","id":ID,"error":{json.dumps(error)}}}\n')
    assert answer["error"] == {"code": -32603, "message": f"{EROFS}\n{LINE}"}


QUIET: dict[str, tuple[str, dict[str, Any]]] = {
    "no error": (result(EROFS, error=False), {}),
    "another error": (result("401 Permission denied"), {}),
    "turned off": (result(EROFS), {"gateway": {"annotate_denials": False}}),
}


@pytest.mark.parametrize(("text", "more"), QUIET.values(), ids=QUIET)
async def test_nothing_is_added_to_what_is_no_such_error(text: str, more: dict[str, Any]) -> None:
    answer = await said(text, **more)
    assert len(texts(answer)) == 2
    assert "storage" not in json.dumps(answer)
