"""Every server of the catalog, as `stockade run NAME` writes it: its package is installed, it starts, it lists its tools.

Real packages from the registries, newest versions, one after the other; nothing of theirs reaches anything. The first run
builds an image for each, ten minutes on a loaded machine, so it runs only where STOCKADE_TEST_CATALOG=1 is set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from registry.catalog import Overrides, entry, servers
from tests.e2e.stockade_process import StockadeProcess

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.environ.get("STOCKADE_TEST_CATALOG") != "1", reason="STOCKADE_TEST_CATALOG is not 1"),
]
BUILD_S = 600
GIVEN: dict[str, dict[str, str]] = {
    "brave-search": {"BRAVE_API_KEY": "dummy"},
    "github": {"GITHUB_PERSONAL_ACCESS_TOKEN": "dummy"},
    "slack": {"SLACK_BOT_TOKEN": "xoxb-dummy", "SLACK_TEAM_ID": "T0"},
}
"""Dummy accounts: these servers start and list their tools without asking anybody about them."""
SECRETS = {"${secret:postgres-url}": "postgresql://user:dummy@db.example:5432/x"}
"""Secrets in arguments: the database is asked at the first query."""
WITHOUT_IMAGE = {"github": "The engine has no image ghcr.io/github/github-mcp-server."}
"""What is said of those that are images, where the engine has not got them and no registry answers."""


def written(name: str, folder: Path) -> dict[str, Any]:
    """The entry that `stockade run` writes, with folders of ours, that any user may write to, and dummy accounts."""
    mounts = []
    for point in servers()[name].mounts:
        source = folder / name / point.target.strip("/")
        source.mkdir(parents=True)
        if name == "git":
            subprocess.run(["git", "init", "-q", str(source)], check=True, timeout=30)
        source.chmod(0o777)
        mounts.append(f"{source}:{point.target}")
    text = json.dumps(entry(name, Overrides(env=GIVEN.get(name), mounts=mounts)))
    for reference, value in SECRETS.items():
        text = text.replace(reference, value)
    made: dict[str, Any] = json.loads(text)
    return {**made, "start": "lazy"}


@pytest.fixture(scope="module")
def catalog(workspace: Path) -> Iterator[StockadeProcess]:
    """A gateway with all of them; each starts when it is first listed."""
    config = workspace / "stockade.yaml"
    gateway = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    entries = {name: written(name, workspace) for name in servers()}
    config.write_text(json.dumps({"version": 1, "gateway": gateway, "mcpServers": entries}))
    process = StockadeProcess(config=config, state=workspace / "s")
    process.up()
    yield process
    process.down()
    shutil.rmtree(workspace / "s", ignore_errors=True)


def status(catalog: StockadeProcess, name: str) -> dict[str, Any]:
    (found,) = [one for one in catalog.json("ps")["backends"] if one["name"] == name]
    return dict(found)


def listed(catalog: StockadeProcess, name: str) -> set[str]:
    """The tools of a server, once it is built; none where it failed."""
    url, headers = catalog.server_endpoint(name), {"accept": "application/json, text/event-stream"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    deadline = time.monotonic() + BUILD_S
    with httpx2.Client(trust_env=False, timeout=200) as http:
        greeted = http.post(url, headers=headers, json=request("initialize", hello))
        if "result" not in greeted.json():
            return set()
        headers["mcp-session-id"] = greeted.headers["mcp-session-id"]
        while time.monotonic() < deadline:
            said = http.post(url, headers=headers, json=request("tools/list", {})).json()
            if "result" not in said:
                return set()
            if "_meta" not in said["result"]:
                return {tool["name"] for tool in said["result"]["tools"]}
            time.sleep(0.5)  # it is being built
    raise AssertionError(f"{name} was not built within {BUILD_S} s")


def request(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@pytest.mark.parametrize("name", sorted(servers()))
def test_a_server_of_the_catalog_starts_and_lists_its_tools(catalog: StockadeProcess, name: str) -> None:
    tools, found = listed(catalog, name), status(catalog, name)
    if not tools and name in WITHOUT_IMAGE:
        assert WITHOUT_IMAGE[name] in found["detail"]
        return
    assert tools, found["detail"]
    assert {tool.name for tool in servers()[name].tools} <= tools
    assert found["state"] == "running"
    assert found["version"][:1].isdigit() or found["source"] == "image"
