"""From a registry name to a running server by command line, on a real gateway with real containers."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx2
import pytest

from examples.demo import stage
from examples.demo.story import Scene, Shown, client, play
from tests.e2e import lean
from tests.e2e.stockade_process import StockadeProcess, until

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def gateway(
    engine: docker.DockerClient, python_base: str, workspace: Path, internet: stage.Internet
) -> Iterator[StockadeProcess]:
    """It has no server yet."""
    with lean.running(workspace, lean.head(internet), engine, python_base) as process:
        yield process


async def fetch(gateway: StockadeProcess, url: str, name: str = "fetch", token: str = "") -> Shown:
    async with client(gateway.endpoint, token) as connected:
        return await play(connected, Scene(says="", tool=f"{name}__fetch", arguments={"url": url}))


def entries(gateway: StockadeProcess) -> dict[str, dict[str, Any]]:
    return {backend["name"]: backend for backend in gateway.json("ps")["backends"]}


def runs(gateway: StockadeProcess, name: str) -> None:
    until(lambda: entries(gateway).get(name, {}).get("state") == "running", f"{name} runs", 120)


def test_a_server_is_found_and_its_safe_policy_shown(gateway: StockadeProcess) -> None:
    found = gateway.run("search", "web", "pages").stdout
    assert "fetch" in found
    assert "postgres" not in found
    about = gateway.run("info", "fetch").stdout
    assert "nothing is allowed until you name the sites" in about
    assert "mcp-server-fetch" in about


async def test_run_writes_the_policy_starts_the_server_and_holds_it_to_it(gateway: StockadeProcess) -> None:
    refused = gateway.run("run", "fetch", "--allow-host", "api.github.com", check=False)
    assert refused.returncode == 1
    assert "allowed_hosts" in refused.stdout
    assert "--yes" in refused.stderr
    assert "fetch" not in entries(gateway)

    wanted = ["--allow-host", "api.github.com", "--allow-host", "evil.example", "--allow-port", "443"]
    result = gateway.run("run", "fetch", *wanted, "--yes")
    assert "+  fetch:" in result.stdout
    runs(gateway, "fetch")
    assert "# the CA of the fake internet" in gateway.config.read_text()
    assert "hello from api.github.com" in (await fetch(gateway, "https://api.github.com/zen")).text
    assert "hello from evil.example" in (await fetch(gateway, "https://evil.example/")).text
    shown = await fetch(gateway, "http://api.github.com/")
    assert [denial["reason"] for denial in shown.denials] == ["port_not_allowed"]


async def test_run_without_isolation_says_so_and_a_name_can_be_chosen(gateway: StockadeProcess) -> None:
    result = gateway.run("run", "time", "--no-isolate", "--name", "clock", "--yes")
    assert "Not isolated" in result.stderr
    runs(gateway, "clock")
    assert entries(gateway)["clock"]["isolated"] is False
    async with client(gateway.server_endpoint("clock"), "") as connected:
        scene = Scene(says="", tool="get_current_time", arguments={"timezone": "UTC"})
        assert "UTC" in (await play(connected, scene)).text


def test_a_server_that_lacks_its_secret_says_how_to_give_it_and_starts_when_it_has_it(
    gateway: StockadeProcess, workspace: Path
) -> None:
    result = gateway.run("run", "time", "--name", "keyed", "--env", "KEY=${secret:some-key}", "--yes")
    assert result.returncode == 0
    until(lambda: entries(gateway).get("keyed", {}).get("state") == "failed", "keyed lacks its secret")
    assert "stockade secret set some-key" in entries(gateway)["keyed"]["detail"]
    result = gateway.run("secret", "set", "some-key", stdin="s3cret\n")
    assert "keyed was restarted with it" in result.stdout
    runs(gateway, "keyed")
    assert (workspace / "secrets" / "some-key").stat().st_mode & 0o777 == 0o600


def test_rm_takes_the_lines_and_the_containers_away(gateway: StockadeProcess, engine: docker.DockerClient) -> None:
    containers = set(entries(gateway)["keyed"]["containers"])
    assert containers
    gateway.run("rm", "keyed")
    assert "keyed" not in gateway.config.read_text()
    until(
        lambda: not containers & {c.id[:12] for c in engine.containers.list(sparse=True)}, "its containers are gone"
    )


SNIPPETS = ("claude-code", "cursor", "vscode", "codex")


async def test_a_clients_snippets_hold_a_token_that_works_until_it_is_removed(gateway: StockadeProcess) -> None:
    made = gateway.json("client", "add", "cursor", "--server", "fetch")
    assert set(SNIPPETS) <= set(made["snippets"])
    assert made["token"] not in gateway.config.read_text()
    for name in SNIPPETS:
        url, headers = read_snippet(name, made["snippets"][name], made["token"])
        assert url == gateway.endpoint
        async with client(url, headers["Authorization"].removeprefix("Bearer ")) as connected:
            names = {tool.name for tool in (await connected.list_tools()).tools}
        assert names == {"fetch__fetch"}, name
    assert "cursor" in gateway.run("client", "ls").stdout
    assert status(gateway, "") == 401, "with a client in the file nobody comes in without a token"
    gateway.run("client", "rm", "cursor")
    assert status(gateway, made["token"]) != 200


def read_snippet(name: str, text: str, token: str) -> tuple[str, dict[str, str]]:
    """The URL and the headers that the AI client would take from the snippet."""
    if name == "codex":
        (server,) = tomllib.loads(text)["mcp_servers"].values()
        return server["url"], {**server.get("http_headers", {})}
    if name == "claude-code" and "claude mcp add" in text:
        (url,) = re.findall(r"http://\S+/mcp", text)
        (bearer,) = re.findall(r"Authorization: (Bearer [\w-]+)", text)
        return url, {"Authorization": bearer}
    (servers,) = (value for key, value in json.loads(text).items() if key in {"mcpServers", "servers"})
    (server,) = servers.values()
    return server["url"], server["headers"]


def status(gateway: StockadeProcess, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx2.Client(trust_env=False) as http:
        return http.post(gateway.endpoint, headers=headers, json={}).status_code
