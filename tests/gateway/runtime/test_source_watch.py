"""`watch: true` where one server's folder cannot be read: the others are looked at, and it is itself once it is mended."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.runtime.containers import planner
from gateway.runtime.containers.planner import source_state
from gateway.runtime.supervise.source_watch import SourceWatch
from registry.model.server import Server


def entry(folder: str) -> Server:
    return Server.model_validate({"command": "python", "args": ["server.py"], "cwd": folder, "watch": True})


@pytest.mark.anyio
async def test_an_error_of_one_server_leaves_the_others_watched(caplog: pytest.LogCaptureFixture) -> None:
    servers = {name: entry(f"/srv/{name}") for name in ("bad", "good")}
    seen, restarted = {"bad": "", "good": "a"}, []

    def look(server: Server) -> str:
        name = server.cwd.rpartition("/")[2]
        if not seen[name]:
            raise RecursionError("too deep")
        return seen[name]

    async def restart(name: str) -> None:
        restarted.append(name)

    watch = SourceWatch(lambda: servers, look, restart)
    with caplog.at_level(logging.ERROR):
        for now in ("a", "b", "b"):
            seen["good"] = now
            await watch.look_once()
    assert restarted == ["good"]
    assert len(caplog.records) == 1, "the same error is logged once, not at every look"
    for now in ("x", "y", "y"):
        seen["bad"] = now
        await watch.look_once()
    assert restarted == ["good", "bad"]
    seen["bad"] = ""
    await watch.look_once()
    del servers["bad"]
    await watch.look_once()
    assert (watch.failing, set(watch.running)) == ({}, {"good"})


@pytest.mark.anyio
async def test_a_restart_that_fails_in_an_odd_way_leaves_the_others_watched() -> None:
    servers = {name: entry(f"/srv/{name}") for name in ("bad", "good")}
    now, restarted = "a", []

    async def restart(name: str) -> None:
        restarted.append(name)
        if name == "bad":
            raise ValueError("odd")

    watch = SourceWatch(lambda: servers, lambda server: now, restart)
    for now in ("a", "b", "b", "b"):  # noqa: B007 - read by the watch
        await watch.look_once()
    assert restarted == ["bad", "good"]


@pytest.mark.parametrize("error", [ValueError("no pattern"), RecursionError(), OSError("gone")])
def test_what_cannot_be_read_is_seen_as_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "server.py").write_text("")
    assert source_state(entry(str(tmp_path)))

    def fail(layout: object) -> str:
        raise error

    monkeypatch.setattr(planner, "folder_state", fail)
    assert source_state(entry(str(tmp_path))) == ""


def test_a_pattern_that_git_could_not_read_either_is_no_error_of_the_watch(tmp_path: Path) -> None:
    for name, text in {".git/x": "", "server.py": "", ".gitignore": "!\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    source_state(entry(str(tmp_path)))
