"""Other gateways in front of the same bare backends, for `bench/gateway.py --rivals`.

They are installed once into a directory of their own (`~/.cache/stockade/rivals`), with pip and npm, and never into
the project's environment. One that cannot be installed or started is left out, with why.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stockade" / "rivals"
PROXY = """
import sys
from fastmcp.server import create_proxy
target = sys.argv[2] if sys.argv[2].startswith("http") else {
    "mcpServers": {"b": {"command": sys.argv[2], "args": sys.argv[3:]}}
}
create_proxy(target, name="proxy").run(
    transport="http", host="127.0.0.1", port=int(sys.argv[1]), path="/mcp", show_banner=False, log_level="error"
)
"""


@dataclass(frozen=True)
class Rival:
    """One gateway with one kind of backend."""

    name: str
    package: str
    kind: str
    """The backend: `stdio` or `http`."""
    command: Callable[[int, Sequence[str]], list[str]]
    """From a port to listen on, and the backend's command line or URL."""


def python(package: str) -> str:
    return str(HOME / package / "bin" / "python")


def node(package: str) -> list[str]:
    return ["node", str(HOME / package / "node_modules" / ".bin" / package)]


RIVALS = (
    Rival(
        "mcp-proxy",
        "mcp-proxy",
        "stdio",
        lambda port, backend: [
            python("mcp-proxy"), "-m", "mcp_proxy", "--port", str(port), "--host", "127.0.0.1", "--", *backend
        ],
    ),
    Rival(
        "supergateway",
        "supergateway",
        "stdio",
        lambda port, backend: [
            *node("supergateway"), "--stdio", " ".join(backend), "--outputTransport", "streamableHttp",
            "--stateful", "--port", str(port), "--logLevel", "none"
        ],
    ),
    Rival("fastmcp proxy", "fastmcp", "stdio", lambda port, b: [python("fastmcp"), "-c", PROXY, str(port), *b]),
    Rival("fastmcp proxy", "fastmcp", "http", lambda port, b: [python("fastmcp"), "-c", PROXY, str(port), *b]),
)  # fmt: skip


def install(package: str) -> str:
    """Why it is not there; empty when it is."""
    place = HOME / package
    if (place / "installed").exists():
        return ""
    steps = [[sys.executable, "-m", "venv", str(place)], [python(package), "-m", "pip", "-q", "install", package]]
    if package == "supergateway":
        steps = [["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(place), package]]
    place.mkdir(parents=True, exist_ok=True)
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no words"])[-1]
    (place / "installed").touch()
    return ""


def version(package: str) -> str:
    """The version that is installed."""
    if package == "supergateway":
        command = ["npm", "ls", "--prefix", str(HOME / package), "--depth=0", "--parseable", "--long"]
        return (
            subprocess.run(command, capture_output=True, text=True)
            .stdout.rpartition("@")[2]
            .partition(":")[0]
            .strip()
        )
    command = [python(package), "-c", f"from importlib.metadata import version; print(version({package!r}))"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def running(rival: Rival, backend: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(pid, port) of one that listens. Raises RuntimeError with its words when it does not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        rival.command(port, backend), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{rival.name} did not start")
            time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether somebody accepts there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
