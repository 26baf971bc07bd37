"""A server that runs and cannot give its lists is in trouble, and `ps` and the page say which lists and why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.mcp.upstream import catalog
from gateway.mcp.wire.errors import MAX_REASON
from tests.gateway.mcp.clients import legacy
from tests.gateway.mcp.fakes import config, eventually, gateway, server

pytestmark = pytest.mark.anyio
SCRIPT = """
import json, sys, time
from pathlib import Path
mood = Path(sys.argv[1])
def say(**m): print(json.dumps({"jsonrpc": "2.0", **m}), flush=True)
for line in sys.stdin:
    m = json.loads(line)
    method = m.get("method")
    if method == "initialize":
        say(id=m["id"], result={"protocolVersion": "2025-06-18", "capabilities": {"tools": {}, "prompts": {}},
            "serverInfo": {"name": "x", "version": "1"}})
    elif method == "server/discover":
        say(id=m["id"], error={"code": -32601, "message": "no"})
    elif method in ("tools/list", "prompts/list"):
        kind, now = method.split("/")[0], mood.read_text()
        if now == "well" or kind == "prompts" and now != "both":
            say(id=m["id"], result={kind: []})
        elif now == "unknown method":
            say(id=m["id"], error={"code": -32601, "message": "no"})
        elif now == "dies":
            sys.exit(1)
        elif now != "silent":
            say(id=m["id"], error={"code": -32603, "message": "fetch failed" + ("!" * 5000 if now == "long" else "")})
"""


class Odd:
    """The script, and how its next list goes."""

    def __init__(self, folder: Path) -> None:
        self._mood = folder / "mood"
        self.script = {"odd": (sys.executable, "-c", SCRIPT, str(self._mood))}

    def goes(self, mood: str) -> None:
        self._mood.write_text(mood)


@pytest.fixture
def odd(tmp_path: Path) -> Odd:
    return Odd(tmp_path)


MOODS = {
    "well": "",
    "unknown method": "",
    "tools": "its tools could not be listed: fetch failed",
    "both": "its tools and prompts could not be listed: fetch failed",
    "silent": "its tools could not be listed: ",
}


@pytest.mark.parametrize("how", MOODS)
async def test_what_a_running_server_does_not_list_is_its_trouble(
    odd: Odd, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "LIST_TIMEOUT_S", 1.0)
    odd.goes(how)
    async with gateway(config({"odd": server(start="lazy")}), odd.script) as running:
        async with legacy(running.url("odd")) as client:
            for method in ("tools/list", "prompts/list"):
                await client.request(method)
            found = running.endpoint.trouble("odd")
            assert found.startswith(MOODS[how]) if how == "silent" else found == MOODS[how]
            odd.goes("well")
            for method in ("tools/list", "prompts/list"):
                assert "result" in await client.request(method)
            assert running.endpoint.trouble("odd") == ""


async def test_trouble_with_lists_ends_with_the_connection_that_had_it(odd: Odd) -> None:
    odd.goes("tools")
    async with gateway(config({"odd": server(start="lazy")}), odd.script) as running:
        async with legacy(running.url("odd")) as client:
            assert "error" in await client.request("tools/list")
            assert running.endpoint.trouble("odd")
            odd.goes("dies")
            assert "error" in await client.request("tools/list")
            await eventually(lambda: "listed" not in running.endpoint.trouble("odd"))


async def test_a_reason_of_any_length_is_cut(odd: Odd) -> None:
    odd.goes("long")
    async with gateway(config({"odd": server(start="lazy")}), odd.script) as running:
        async with legacy(running.url("odd")) as client:
            await client.request("tools/list")
            assert len(running.endpoint.trouble("odd")) < MAX_REASON + 200
