"""How the parts are put together: what the gateway tells of itself, and when it calls itself ready."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.app import Gateway, prepare
from gateway.control.listen import ListenError
from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError
from gateway.settled import HELD_S, unsettled_s
from observability.events import BackendState
from registry.config import Config

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the configuration will be; the gateway's state is beside it."""
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(tmp_path / "s"))
    return tmp_path / "stockade.yaml"


def write(file: Path, text: str | None) -> None:
    """As a person who edits it would; None takes it away."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


@contextlib.asynccontextmanager
async def prepared(file: Path, text: str = "mcpServers: {}\n") -> AsyncIterator[Gateway]:
    """A gateway of this file, not started."""
    write(file, text)
    gateway = prepare(file, "test")
    try:
        yield gateway
    finally:
        await asyncio.to_thread(gateway.recorders.close)


async def test_a_trust_override_is_told_as_one_and_not_as_a_warning_too(file: Path) -> None:
    text = "egress: {resolve: ['api.github.com:443:10.0.0.9']}\n"
    text += "mcpServers:\n  open: {image: x, network: {isolated: false}}\n"
    async with prepared(file, text) as gateway:
        assert len(gateway.config.warnings) == 2
        assert ["isolated" in warning for warning in gateway.warnings] == [True]


async def test_a_changed_file_that_is_refused_is_a_warning_until_it_is_put_right(file: Path) -> None:
    async with prepared(file) as gateway:
        write(file, "mcpServers:\n  one: {image: x, netwrok: {}}\n")
        await gateway.live.file_changed()
        assert [f"{file}:2:19: mcpServers.one.netwrok: unknown key" in said for said in gateway.warnings] == [True]
        write(file, None)
        await gateway.live.file_changed()
        assert ["there is no such file" in said for said in gateway.warnings] == [True]
        write(file, "mcpServers: {}\n")
        await gateway.live.file_changed()
        assert list(gateway.warnings) == []


async def test_what_only_a_start_takes_up_is_told_until_then(file: Path) -> None:
    async with prepared(file) as gateway:
        write(file, "project: other\ngateway:\n  admin: 127.0.0.1:9\n  history: {max_days: 1}\nmcpServers: {}\n")
        await gateway.live.file_changed()
        said = "is not in force before the gateway is started again. Run: stockade down, then: stockade up -d."
        keys = {"project": 1, "gateway.admin": 3, "gateway.history": 4}
        found = [text.partition(": ")[2].partition(": ") for text in gateway.warnings]
        assert found == [(key, ": ", said) for key in keys]
        for text, line in zip(gateway.warnings, keys.values(), strict=True):
            assert text.startswith(f"{file}:{line}:")
        write(file, "gateway: {call_timeout_s: 5}\nmcpServers: {}\n")
        await gateway.live.file_changed()
        assert list(gateway.warnings) == []


async def test_an_engine_that_is_away_while_a_change_is_applied_does_not_end_the_gateway(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(config: Config) -> None:
        raise EngineError("The engine does not answer.")

    async with prepared(file) as gateway:
        with monkeypatch.context() as patch:
            patch.setattr(gateway.supervisor, "apply", away)
            await gateway.live.file_changed()
        said = "The file is not all in force: The engine does not answer. `stockade reload` tries again."
        assert list(gateway.warnings) == [said]
        await gateway.live.file_changed()
        assert list(gateway.warnings) == []


@pytest.mark.parametrize("first", [True, False])
async def test_a_first_start_that_fails_leaves_no_history_behind(file: Path, first: bool) -> None:
    kept = file.parent / "s" / "test"
    if not first:
        kept.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        write(file, f"gateway: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}\nmcpServers: {{}}\n")
        gateway = prepare(file, "test")
        with pytest.raises(ListenError, match="is already in use"):
            await gateway.serve()
    assert kept.exists() is not first
    with pytest.raises(RuntimeError, match="after shutdown"):
        gateway.sandbox.engine.threads.submit(list)


async def test_a_file_with_remote_servers_only_needs_no_engine(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to start, to serve or to stop; the first server that is to run here is told that there is none, and can wait."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{file.parent}/none.sock")
    far = "gateway: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'}\nmcpServers:\n  far: {url: 'http://127.0.0.1:9/mcp'}\n"
    write(file, far)
    gateway = prepare(file, "test")
    ready = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(gateway.serve(lambda _: ready.set()))
        await ready.wait()
        assert [(one.name, one.state) for one in gateway.supervisor.status()] == [("far", BackendState.REMOTE)]
        write(file, far + "  clock: {command: uvx, args: [mcp-server-time]}\n")
        for _ in range(2):
            with pytest.raises(EngineError, match=r"There is no Docker engine at .*none\.sock .*Install one"):
                await gateway.reload()
        with pytest.raises(BackendUnavailable, match="stockade reload"):
            await gateway.supervisor.instance("clock")
        write(file, far)
        await gateway.reload()
        assert not serving.done()
        gateway.shutdown()


def keeper(state: BackendState, *, for_s: float = 0.0, done: bool = False, once: bool = False) -> Any:
    ended = asyncio.Event()
    if done:
        ended.set()
    return SimpleNamespace(state=state, since=time.time() - for_s, done=ended, once=once)


@pytest.mark.parametrize("state", [BackendState.STOPPED, BackendState.BUILDING, BackendState.STARTING])
async def test_a_start_is_waited_for(state: BackendState) -> None:
    assert unsettled_s(keeper(state)) > HELD_S
    assert unsettled_s(keeper(state, done=True)) == 0
    assert unsettled_s(keeper(state, once=True)) == 0, "a spare, or a session's own"


async def test_a_server_that_just_started_may_yet_end_at_once() -> None:
    assert 0 < unsettled_s(keeper(BackendState.RUNNING)) <= HELD_S
    assert unsettled_s(keeper(BackendState.RUNNING, for_s=HELD_S)) == 0


@pytest.mark.parametrize("state", [BackendState.FAILED, BackendState.BACKOFF, BackendState.REMOTE])
async def test_a_failure_is_not_waited_for(state: BackendState) -> None:
    assert unsettled_s(keeper(state)) == 0
