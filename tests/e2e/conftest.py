"""Fixtures of the end-to-end tests: the engine, the fake internet, the story's gateway."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from examples.demo import stage
from tests.e2e.otlp_receiver import OtlpReceiver
from tests.e2e.stockade_process import ROOT, StockadeProcess


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def python_base() -> str:
    return asyncio.run(stage.python_base())


@pytest.fixture(scope="session")
def run_id() -> str:
    return secrets.token_hex(3)


@pytest.fixture(scope="module")
def workspace() -> Iterator[Path]:
    """A short-lived directory with a short path, for configuration, certificates and state."""
    path = Path(tempfile.mkdtemp(prefix="stk"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def internet(engine: docker.DockerClient, python_base: str, workspace: Path, run_id: str) -> Iterator[stage.Internet]:
    """A fake internet of this module's own; its subnet is derived from the process, so runs do not collide."""
    stage.make_certificates(workspace)
    name = f"stktest-{run_id}-{os.path.basename(workspace)[-4:].lower()}"
    third = 100 + int.from_bytes(secrets.token_bytes(1)) % 150
    made = stage.start_internet(
        engine, python_base, workspace, name=name, subnet=f"10.214.{third}.0/24", gateway=f"10.214.{third}.1"
    )
    yield made
    stage.stop_internet(engine, name)


@pytest.fixture(scope="module")
def otlp() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def story(
    engine: docker.DockerClient, python_base: str, workspace: Path, internet: stage.Internet, otlp: OtlpReceiver
) -> Iterator[StockadeProcess]:
    """The demo's own configuration on other ports and addresses, up and ready."""
    stage.build_rogue(engine, python_base, "stockade-test-rogue:latest")
    text = (ROOT / "examples" / "demo.yaml").read_text()
    text = text.replace("10.213.77.1", internet.address).replace(stage.ROGUE_IMAGE, "stockade-test-rogue:latest")
    text = text.replace("version: 1\n", "version: 1\ngateway: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'}\n")
    text = text.replace("\nclients:", MORE_BACKENDS + "\nclients:").replace(
        "servers: [fetch, time, everything, rogue]", "servers: '*'"
    )
    config = workspace / "stockade.yaml"
    config.write_text(text)
    process = StockadeProcess(
        config=config, state=workspace / "s", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url, **FAST_TRACES}
    )
    try:
        process.up()
        yield process
    finally:
        process.down()


FAST_TRACES = {"OTEL_BSP_SCHEDULE_DELAY": "200"}

MORE_BACKENDS = """
  sealed:                     # no policy at all: reaches nothing
    image: stockade-test-rogue:latest

  open:                       # not isolated: an ordinary network, nothing observed
    image: stockade-test-rogue:latest
    network: {isolated: false}

  hosted:                     # for services on the host
    image: stockade-test-rogue:latest
"""
