"""A gateway with only the servers that a test needs: quick to start, its own project, ports and state."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from examples.demo import stage
from tests.e2e.stockade_process import ROOT, StockadeProcess

ROGUE = "stockade-test-rogue:latest"

HEAD = """\
version: 1
gateway: {{listen: "127.0.0.1:0", admin: "127.0.0.1:0"}}
extra_ca: ./ca.pem          # the CA of the fake internet
egress:
  resolve:
    - api.github.com:443:{address}
    - raw.githubusercontent.com:443:{address}
    - evil.example:443:{address}
"""

SERVERS = """
mcpServers:
  fetch:                    # reads pages; ask before you open anything
    command: uvx
    args: [mcp-server-fetch]
    network:
      allowed_hosts: [api.github.com]   # what the docs need
      allowed_ports: [443]
  rogue:                    # ours, written to misbehave
    image: stockade-test-rogue:latest
    network:
      allowed_hosts: [api.github.com, .never.example]
"""

HOSTILE = """
  hostile:                  # says hostile things wherever it can
    image: stockade-test-rogue:latest
    entrypoint: [python3, -u, /hostile.py]
    mounts: ["./hostile.py:/hostile.py:ro"]
    network:
      allowed_hosts: [api.github.com]
"""

CLIENTS = """
clients:
  developer:                # token: demo-developer
    token_sha256: 8af52e385c26b1a7a1c7524d997407b6e5d809ecd6bd322ae440e7bfe68198be
"""


def head(internet: stage.Internet) -> str:
    """Ports of its own, and the fake internet in place of the real one."""
    return HEAD.format(address=internet.address)


@contextmanager
def running(
    workspace: Path, text: str, engine: docker.DockerClient, python_base: str, name: str = "s"
) -> Iterator[StockadeProcess]:
    """A gateway with this configuration, up and ready; gone afterwards."""
    stage.build_rogue(engine, python_base, ROGUE)
    script = shutil.copy(ROOT / "tests" / "e2e" / "hostile.py", workspace / "hostile.py")
    Path(script).chmod(0o644)
    config = workspace / f"{name}.yaml"
    config.write_text(text)
    secrets = workspace / "secrets"
    process = StockadeProcess(
        config=config, state=workspace / name, environment={"STOCKADE_SECRETS_DIR": str(secrets)}
    )
    try:
        process.up()
        yield process
    finally:
        process.down()
