"""The conformance suite with the whole of Stockade: the fixture in containers behind doors, over stdio and over HTTP.

The fixture runs in the image that Stockade builds for mcp-server-time, which has the SDK in it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stockade_process import StockadeProcess
from tests.gateway.mcp.test_conformance import REVISIONS, required, whole_suite

pytestmark = [pytest.mark.anyio, pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(1500)]
PYTHON = "/opt/stockade/tools/mcp-server-time/bin/python"
FIXTURE = Path(__file__).parents[2] / "fixture_server"


def free_ports() -> dict[str, str]:
    return {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="stkcf"))
    shutil.copytree(FIXTURE, place / "fixture", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def started(folder: Path, name: str, servers: dict[str, Any]) -> StockadeProcess:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"version": 1, "gateway": free_ports(), "mcpServers": servers}))
    process = StockadeProcess(config=path, state=folder / "s")
    process.up()
    return process


def image_of(container: str) -> str:
    command = ["docker", "inspect", "--format", "{{.Config.Image}}", container]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def image(folder: Path) -> str:
    """The image that Stockade makes of a Python server."""
    process = started(folder, "image", {"time": {"command": "uvx", "args": ["mcp-server-time"]}})
    try:
        (status,) = process.json("ps")["backends"]
        images = [image_of(container) for container in status["containers"]]
        return next(name for name in images if name.startswith("stockade-package-"))
    finally:
        process.down()


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_all_97_required_scenarios_pass_with_the_fixture_in_a_container(
    kind: str, folder: Path, image: str, tmp_path: Path
) -> None:
    command = [PYTHON, "-B", "/fixture/server.py", *(["--http", "8000"] if kind == "http" else [])]
    entry: dict[str, Any] = {"image": image, "entrypoint": command, "mounts": [f"{folder / 'fixture'}:/fixture:ro"]}
    if kind == "http":
        entry |= {"type": "http", "port": 8000}
    process = await asyncio.to_thread(started, folder, kind, {"fixture": entry})
    try:
        url = process.server_endpoint("fixture")
        found = await asyncio.gather(*(whole_suite(url, tmp_path / revision, revision) for revision in REVISIONS))
    finally:
        await asyncio.to_thread(process.down)
    failed = [
        f"{revision}: {name}"
        for revision, passed in zip(REVISIONS, found, strict=True)
        for name in required(revision)
        if not passed.get(name)
    ]
    assert failed == []
