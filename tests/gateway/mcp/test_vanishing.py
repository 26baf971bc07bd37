"""Ends that come at a bad moment: crowds of clients that vanish, backends that hang or go while they are greeted.

What all these tests have in common: nothing of the gateway's own may fail (`an error of ours` is a logged exception).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import FIXTURE, Gateway, config, eventually, gateway, server

pytestmark = pytest.mark.anyio
FAULTY = (sys.executable, "-m", "tests.fixture_server.faulty")
CAPABILITIES: dict[str, Any] = {"sampling": {}, "elicitation": {}, "roots": {}}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both loops: their transports fail in other ways."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def no_error_of_ours(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    records = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in records] == []


PIPE: list[tuple[str, dict[str, Any]]] = [
    ("later", {"seconds": 2}),
    ("later", {"seconds": 0.1}),
    ("ask", {}),
    ("ok", {}),
]
WEB: list[tuple[str, dict[str, Any]]] = [
    ("wait", {"seconds": 2}),
    ("ask_after", {"prompt": "x", "seconds": 0.1}),
    ("stubborn", {"prompt": "x", "seconds": 0.2}),
    ("log_after", {"line": "x", "seconds": 0.1}),
    ("test_tool_with_progress", {}),
]


async def vanish(port: int, path: str, message: dict[str, Any], headers: dict[str, str], after_s: float) -> None:
    """Sends a request and cuts the connection, wherever its answer is."""
    body = json.dumps(message).encode()
    lines = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body)), **headers}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"\r\n" + body)
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(after_s):
            while await reader.read(65536):
                pass
    writer.transport.abort()


async def one_client(running: Gateway, number: int, chance: random.Random) -> None:
    """Calls what takes long, or asks, and goes away in the middle of it, several times."""
    route, prefix = [("", "web__"), ("", "pipe__"), ("web", ""), ("pipe", "")][number % 4]
    url = running.url(route)
    path = url.removeprefix(f"http://127.0.0.1:{running.port}")
    for turn in range(4):
        tool, arguments = chance.choice(PIPE if number % 2 else WEB)
        params = {"name": prefix + tool, "arguments": arguments, "_meta": {"progressToken": turn}}
        after_s = chance.random() / 2
        if number // 4 % 2:
            async with modern(url, capabilities=CAPABILITIES) as new:
                message = new.message("tools/call", params, {"progressToken": turn})
                await vanish(running.port, path, message, new.routing(message), after_s)
            continue
        with contextlib.suppress(AssertionError, httpx2.HTTPError):  # it is being stopped
            async with legacy(url, capabilities=CAPABILITIES) as old:
                message = {"jsonrpc": "2.0", "id": turn, "method": "tools/call", "params": params}
                await vanish(running.port, path, message, old.headers, after_s)
                if chance.random() < 0.5:
                    await old.http.delete(url, headers=old.headers)


@pytest.mark.parametrize("sessions", ["auto", "shared", "per-client"])
async def test_a_crowd_that_vanishes_in_the_middle_of_its_calls_breaks_nothing(sessions: str) -> None:
    servers = {"pipe": server(sessions=sessions), "web": server(http=True)}
    chance = random.Random(sessions)
    async with gateway(config(servers), {"pipe": FAULTY}) as running:
        async with asyncio.timeout(100):
            await asyncio.gather(*(one_client(running, number, chance) for number in range(24)))
        for instance in list(running.supervisor.instances.values())[:2]:
            if instance.process is not None:
                instance.process.kill()
        crowd = [asyncio.ensure_future(one_client(running, number, chance)) for number in range(12)]
        await eventually(lambda: running.endpoint.inflight.count() or all(one.done() for one in crowd))
        await running.endpoint.close(0.2)
        async with asyncio.timeout(60):
            await asyncio.gather(*crowd)
        assert running.endpoint.inflight.count() == 0


async def test_a_backend_that_hung_when_it_was_greeted_is_started_anew(tmp_path: Path) -> None:
    flag = tmp_path / "hang"
    flag.touch()
    once = ("env", f"FAULTY_START=hang {flag}", *FAULTY)
    settings = config({"bad": server(sessions="shared")}, gateway={"start_timeout_s": 2})
    async with gateway(settings, {"bad": once}) as running, modern(running.url("bad")) as client:
        async with asyncio.timeout(60):
            while "error" in (said := await client.call("ok")):
                assert said["error"]["message"].startswith("Server bad")
                await asyncio.sleep(0.05)
        assert said["result"]["content"][0]["text"] == "ok "
        assert running.supervisor.renewed == ["bad"]
        assert len(running.supervisor.started) == 2


@pytest.mark.parametrize("change", ["removed", "changed", "stopped"])
async def test_a_backend_that_goes_while_it_is_opened_gives_its_callers_an_error(change: str) -> None:
    hang = ("env", "FAULTY_START=hang", *FAULTY)
    settings = config({"bad": server(), "good": server()}, gateway={"start_timeout_s": 60})
    async with gateway(settings, {"bad": hang, "good": FIXTURE}) as running:
        async with modern(running.url("bad")) as one, modern(running.url()) as two:
            calls = [asyncio.ensure_future(one.call("ok")), asyncio.ensure_future(two.call("bad__ok"))]
            await eventually(lambda: ("bad", "") in running.supervisor.started)
            await asyncio.wait(calls, timeout=0.3)
            if change == "stopped":
                await running.endpoint.close(0.1)
            else:
                servers = {"good": server(), **({"bad": server(args=["x"])} if change == "changed" else {})}
                running.endpoint.apply(config(servers))
            async with asyncio.timeout(20):
                for said in await asyncio.gather(*calls):
                    assert said["error"]["code"] == -32000, said
                    assert said["error"]["message"].startswith("Server bad: it was stopped, or its configuration")


async def test_a_pipe_that_broke_before_anybody_heard_of_it_is_an_error_with_words() -> None:
    async with gateway(config({"bad": server()}), {"bad": FAULTY}) as running, legacy(running.url("bad")) as client:
        assert await client.text("ok") == "ok "
        process = running.supervisor.instances["bad", ""].process
        assert process is not None
        assert process.stdin is not None
        process.stdin.transport.abort()
        async with asyncio.timeout(30):
            while "error" in (said := await client.call("ok")):
                assert said["error"]["code"] == -32000, said
                await asyncio.sleep(0.05)


async def test_an_http_connection_that_closes_while_it_is_idle_is_not_written_to() -> None:
    async with gateway(config({"web": server(http=True)})) as running, modern(running.url("web")) as client:
        assert "result" in await client.call("test_simple_text")
        backend = running.endpoint._backends["web"]
        for _ in range(20):
            for site in backend._connector._sites.values():
                for connection in list(site[1].pool._open):
                    assert connection._transport is not None
                    connection._transport.abort()
            assert "result" in await client.call("test_simple_text")


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_client_that_vanishes_while_a_backend_starts_is_not_served(connect: Any) -> None:
    async with (
        gateway(config({"slow": server(start="lazy", sessions="shared")})) as running,
        connect(running.url("slow")) as client,
    ):
        assert "result" in await client.call("echo", {})  # what it is, is known
        await restart_held(running, "slow")
        async with running.supervisor._locks["slow", ""]:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await client.call("crash")
            await eventually(lambda: [call.error for call in running.calls()][-1:] == ["client_gone"])
        assert "result" in await client.call("echo", {})
        assert len(running.supervisor.started) == 2, "it did not crash"


async def test_a_call_that_is_cancelled_while_a_backend_starts_is_over_at_once() -> None:
    async with (
        gateway(config({"slow": server(start="lazy", sessions="shared")})) as running,
        legacy(running.url("slow")) as client,
    ):
        assert "result" in await client.call("echo", {})
        await restart_held(running, "slow")
        async with running.supervisor._locks["slow", ""]:
            calling = asyncio.ensure_future(client.request("tools/call", {"name": "crash"}, 77))
            asked = running.supervisor.asked
            await eventually(lambda: running.supervisor.asked > asked)
            await client.notify("notifications/cancelled", {"requestId": 77})
            async with asyncio.timeout(30):
                assert (await calling)["error"]["code"] == -32800
        assert "result" in await client.call("echo", {})
        assert len(running.supervisor.started) == 2, "it did not crash"


async def test_a_subscription_whose_client_left_before_it_began_is_not_kept() -> None:
    servers = {"slow": server(http=True, start="lazy")}
    command = ("env", "FIXTURE_ERA=modern", *FIXTURE, "--http", "0")
    async with gateway(config(servers), {"slow": command}) as running, modern(running.url("slow")) as client:
        watches, lock = (
            running.endpoint._subscriptions,
            running.supervisor._locks.setdefault(("slow", ""), asyncio.Lock()),
        )
        async with lock:
            wanted = {"notifications": {"resourceSubscriptions": ["test://watched-resource"]}}
            listening = asyncio.ensure_future(client.request("subscriptions/listen", wanted))
            await eventually(lambda: watches._watched and running.supervisor.asked)
            listening.cancel()
            await eventually(lambda: not watches._listeners)
        await eventually(lambda: running.endpoint._backends["slow"].peers())
        assert "result" in await client.call("echo", {})
        await eventually(lambda: not watches._watched)
        calls = [call for peer in running.endpoint._backends["slow"].peers() for call in peer.calls.values()]
        assert [call for call in calls if "resourceSubscriptions" in str(call.params)] == []


async def restart_held(running: Gateway, backend: str) -> None:
    """The backend's process ends; the next one starts for who is asked next."""
    await running.supervisor.instances[backend, ""].stop()
    await eventually(lambda: not running.endpoint._backends[backend].peers())
