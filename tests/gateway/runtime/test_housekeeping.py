"""Housekeeping of a start: what the engine will not remove just now never stops it, is logged and tried again later."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.runtime.docker import engine as docker_engine
from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.images import stages
from gateway.runtime.images.recipes import STAGE_LABEL
from gateway.runtime.images.stages import tidy_stages
from gateway.runtime.sandbox.errors import EngineError, EngineUnreachable
from tests.gateway.runtime.test_supervisor import TIME, WEB, Stage, config
from tests.gateway.runtime.test_supervisor import stage as stage

pytestmark = pytest.mark.anyio

REFUSALS = [
    pytest.param(EngineError("Could not remove it: a prune operation is already running"), id="409"),
    pytest.param(EngineError("Could not remove it: removal of container x is already in progress"), id="409 removal"),
    pytest.param(EngineError("Could not remove it: driver failed"), id="500"),
    pytest.param(EngineUnreachable("The Docker engine did not answer in time to remove it."), id="timeout"),
]


def refuse(stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception, *what: str) -> None:
    async def refused(*args: object, **more: object) -> None:
        raise error

    for name in what:
        monkeypatch.setattr(stage.engine, name, refused)


@pytest.mark.parametrize("error", REFUSALS)
async def test_build_stages_that_stay_do_not_stop_a_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    refuse(stage, monkeypatch, error, "remove_stages")
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
    assert str(error) in caplog.text


@pytest.mark.parametrize("error", REFUSALS)
async def test_old_containers_and_networks_that_stay_do_not_stop_a_start_and_go_with_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    open_server = {**WEB, "network": {"isolated": False}}
    async with stage.running(config({"clock": TIME, "old": TIME, "web": open_server}), remove=False) as supervisor:
        await supervisor.instance("old")
        await stage.until(lambda: stage.names.network("web") in stage.engine.nets)
    with monkeypatch.context() as refusing:
        refuse(stage, refusing, error, "remove", "remove_network")
        async with stage.running(config({"clock": TIME}), remove=False) as supervisor:
            await supervisor.instance("clock")
            assert "stockade-p-b-old" in stage.sandbox.ownership.record.owned, "it is not forgotten while it is there"
    assert str(error) in caplog.text
    async with stage.running(config({"clock": TIME}), remove=False):
        assert "stockade-p-b-old" not in stage.sandbox.ownership.record.owned
        assert not any("old" in c.plan.name or "web" in c.plan.name for c in stage.engine.containers.values())


async def test_a_server_whose_old_container_stays_says_why_and_the_others_run(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.running(config({"clock": TIME, "other": TIME}), remove=False) as supervisor:
        await supervisor.instance("clock")
        await supervisor.instance("other")
    changed = {**TIME, "env": {"A": "1"}}
    error = EngineError("Could not remove container: driver failed")
    ours = {c.id for c in stage.engine.containers.values() if c.plan.name == "stockade-p-b-clock"}
    with monkeypatch.context() as refusing:
        remove = stage.engine.remove

        async def refused(container: str) -> None:
            if container in ours:
                raise error
            await remove(container)

        refusing.setattr(stage.engine, "remove", refused)
        async with stage.running(config({"clock": changed, "other": TIME}), remove=False) as supervisor:
            await supervisor.instance("other")
            await stage.until(lambda: str(error) in supervisor.status()[0].detail)
            assert "stockade-p-b-clock" in stage.sandbox.ownership.record.owned
    async with stage.running(config({"clock": changed, "other": TIME})) as supervisor:
        await supervisor.instance("clock")


async def test_a_prune_that_takes_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: Stage
) -> None:
    caplog.set_level(logging.WARNING)

    async def for_ever(label: str, older_than: str = "") -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(stages, "TIDY_S", 0.01)
    monkeypatch.setattr(stage.engine, "remove_stages", for_ever)
    await tidy_stages(stage.engine, STAGE_LABEL)
    assert "did not answer within 0.01 s" in caplog.text


# -- the Docker adapter

Script = Callable[[str], tuple[int, object]]


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[[Script], DockerEngine]]:
    """An engine on a socket whose answer to `METHOD PATH` a function gives."""
    servers: list[socketserver.BaseServer] = []

    def make(script: Script) -> DockerEngine:
        class Handler(http.server.BaseHTTPRequestHandler):
            def reply(inner) -> None:
                path = inner.path.partition("?")[0]
                bare = "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path
                version = (200, {"ApiVersion": "1.41", "Version": "1", "MinAPIVersion": "1.12"})
                status, body = version if bare == "/version" else script(f"{inner.command} {bare}")
                raw = json.dumps(body).encode()
                inner.send_response(status)
                inner.send_header("Content-Type", "application/json")
                inner.send_header("Content-Length", str(len(raw)))
                inner.end_headers()
                inner.wfile.write(raw)

            do_GET = do_POST = do_DELETE = reply

            def log_message(inner, *args: object) -> None:
                return

            def address_string(inner) -> str:
                return ""

        server = socketserver.ThreadingUnixStreamServer(str(tmp_path / f"{len(servers)}.sock"), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return DockerEngine(f"unix://{server.server_address}")

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [409, 500])
async def test_an_engine_that_refuses_to_prune_is_logged(
    scripted: Callable[[Script], DockerEngine], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    engine = scripted(lambda asked: (status, {"message": "a prune operation is already running"}))
    await tidy_stages(engine, STAGE_LABEL, older_than="1h")
    assert "a prune operation is already running" in caplog.text
    await engine.close()


async def test_a_removal_under_way_is_waited_for(scripted: Callable[[Script], DockerEngine]) -> None:
    looks = iter([(200, {"Id": "x"})] * 2)

    def script(asked: str) -> tuple[int, object]:
        if asked == "DELETE /containers/x":
            return 409, {"message": "removal of container x is already in progress"}
        return next(looks, (404, {"message": "No such container: x"}))

    engine = scripted(script)
    await engine.remove("x")
    assert next(looks, None) is None, "it looked until the container was gone"
    await engine.close()


async def test_a_removal_that_never_ends_is_an_error(
    scripted: Callable[[Script], DockerEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "REMOVAL_S", 0.01)
    refused = (409, {"message": "removal of container x is already in progress"})
    engine = scripted(lambda asked: refused if asked.startswith("DELETE") else (200, {"Id": "x"}))
    with pytest.raises(EngineError, match="already in progress"):
        await engine.remove("x")
    await engine.close()
