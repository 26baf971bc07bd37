"""Each kind of bad input through the real command: the words, where they point, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from examples.demo import stage
from examples.demo.story import client
from registry.config import Config, project_name
from tests.e2e.stockade_process import ROOT, StockadeProcess, until

pytestmark = [pytest.mark.anyio]

HEAD = 'version: 1\ngateway: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}\n'
TIME = "  time: {command: uvx, args: [mcp-server-time]}\n"
DIGEST = "8af52e385c26b1a7a1c7524d997407b6e5d809ecd6bd322ae440e7bfe68198be"


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path, since sockets are made below it."""
    path = Path(tempfile.mkdtemp(prefix="stk"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def stockade(directory: Path, text: str, **environment: str) -> StockadeProcess:
    """The command against a file with this text."""
    config = directory / "stockade.yaml"
    config.write_text(text)
    return StockadeProcess(config=config, state=directory / "s", environment=environment)


def refused(process: StockadeProcess) -> str:
    """What `up -d` says when it cannot start: on stderr alone, one line for each problem, no traceback."""
    result = process.run("up", "-d", str(process.config), check=False, timeout_s=60)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert_nothing_left(process)
    return result.stderr.removeprefix("Error: ").removesuffix("\n")


def assert_nothing_left(process: StockadeProcess) -> None:
    """No socket, no file that says a gateway runs, no log, no process, and nothing on the engine."""
    left = [path for path in process.state.rglob("*") if path.is_socket() or path.name in ("gateway.json", "seq")]
    assert left == []
    assert list(process.state.glob("up-*.log")) == []
    assert commands_with(str(process.config)) == []
    if Path("/var/run/docker.sock").exists():
        assert on_the_engine(project_name(Config(), process.config)) == []


def commands_with(word: str) -> list[str]:
    """Command lines of other processes that have this word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in line:
                found.append(line)
    return found


def on_the_engine(project: str) -> list[str]:
    """Names of the containers and networks of a project."""
    engine = docker.from_env()
    try:
        containers = engine.containers.list(all=True, sparse=True)
        names = [container.attrs["Names"][0] for container in containers]
        return [name for name in [*names, *(network.name for network in engine.networks.list())] if project in name]
    finally:
        engine.close()


def servers(text: str) -> str:
    return f"{HEAD}mcpServers:\n{text}"


FILES: dict[str, tuple[str, str]] = {
    "unknown key": (
        servers("  fetch:\n    comand: uvx\n"),
        ":5:5: mcpServers.fetch.comand: unknown key 'comand'. Did you mean 'command'?",
    ),
    "wrong type": (
        servers("  fetch: {command: uvx, args: mcp-server-fetch}\n"),
        ":4:31: mcpServers.fetch.args: must be a list, not text. Write [mcp-server-fetch].",
    ),
    "duplicate key": (
        servers("  fetch: {command: uvx, args: [a]}\n  fetch: {command: uvx, args: [b]}\n"),
        ":5:3: mcpServers.fetch: is written twice; the first is on line 4. Keep one.",
    ),
    "host with a space": (
        servers("  fetch: {image: x, network: {allowed_hosts: [api github.com]}}\n"),
        ":4:47: mcpServers.fetch.network.allowed_hosts[0]: 'api github.com' has a space in it; write one host an "
        "entry, such as api.github.com.",
    ),
    "URL as host": (
        servers('  fetch: {image: x, network: {allowed_hosts: ["https://api.github.com/"]}}\n'),
        ":4:47: mcpServers.fetch.network.allowed_hosts[0]: 'https://api.github.com/' is a URL; keep only the host: "
        "api.github.com.",
    ),
    "port 70000": (
        servers("  fetch: {image: x, network: {allowed_hosts: [a.example], allowed_ports: [70000]}}\n"),
        ":4:75: mcpServers.fetch.network.allowed_ports[0]: 70000 is not a port: ports go from 1 to 65535.",
    ),
    "name with capitals": (
        servers("  Fetch: {image: x}\n"),
        ":4:3: mcpServers.Fetch: 'Fetch' cannot be a name: lower-case letters, digits and single inner hyphens, at "
        "most 31. Call it 'fetch'.",
    ),
    "name with two underscores": (
        servers("  web__fetch: {image: x}\n"),
        ":4:3: mcpServers.web__fetch: 'web__fetch' cannot be a name: lower-case letters, digits and single inner "
        "hyphens, at most 31. Call it 'web-fetch'.",
    ),
    "unknown backend in a client": (
        servers(f"{TIME}clients:\n  cursor: {{token_sha256: {DIGEST}, servers: [tyme]}}\n"),
        ":6:102: clients.cursor.servers[0]: there is no server 'tyme'. Did you mean 'time'?",
    ),
    "tab": (
        servers("\tfetch: {image: x}\n"),
        ":4:1: a tab indents this line; YAML takes only spaces. Replace the tab with spaces.",
    ),
    "empty file": (
        "# nothing yet\n",
        ":1: is empty. Add a server with `stockade run NAME` (see `stockade search`).",
    ),
}


@pytest.mark.parametrize(("text", "words"), FILES.values(), ids=FILES)
def test_what_is_wrong_with_the_file_is_said_with_line_and_key(text: str, words: str, short: Path) -> None:
    process = stockade(short, text)
    assert refused(process) == f"{process.config}{words}"
    assert not process.state.exists()


@pytest.mark.parametrize("command", ["up", "validate"])
def test_the_foreground_start_and_validate_say_the_same(command: str, short: Path) -> None:
    process = stockade(short, FILES["unknown key"][0])
    result = process.run(command, check=False, timeout_s=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Error: {process.config}{FILES['unknown key'][1]}\n"


def test_an_engine_that_is_not_there(short: Path) -> None:
    host = f"unix://{short}/none.sock"
    assert refused(stockade(short, servers(TIME), DOCKER_HOST=host)) == (
        f"There is no Docker engine at {host} (from DOCKER_HOST). Install one (Debian, Ubuntu: `sudo apt-get install "
        "docker.io`) or say where it is with DOCKER_HOST."
    )


def test_an_engine_that_does_not_answer_on_its_socket(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short / "dead.sock"))
    host = f"unix://{short}/dead.sock"
    assert refused(stockade(short, servers(TIME), DOCKER_HOST=host)) == (
        f"The Docker engine at {host} (from DOCKER_HOST) does not answer (connection refused). Start it (`sudo "
        "systemctl start docker`) or say where it is with DOCKER_HOST."
    )


def test_an_engine_that_does_not_answer_on_its_port(short: Path) -> None:
    host = f"tcp://127.0.0.1:{free_port()}"
    said = refused(stockade(short, servers(TIME), DOCKER_HOST=host))
    assert said.startswith(f"The Docker engine at {host} (from DOCKER_HOST) does not answer (connection refused). ")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_permission_on_the_engines_socket(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(short / "engine.sock"))
        engine.listen()
        (short / "engine.sock").chmod(0o660)
        (short / "home").mkdir()
        os.chown(short / "home", 65534, 65534)
        process = stockade(short, servers(TIME))
        process.state = short / "home" / "s"
        host = f"unix://{short}/engine.sock"
        result = as_nobody(process, DOCKER_HOST=host, HOME=str(short / "home"))
    assert result.returncode == 1, result
    assert result.stderr == (
        f"Error: This user may not use the Docker engine at {host} (from DOCKER_HOST). Run `sudo usermod -aG docker "
        "$USER` and log in again, or run stockade with sudo.\n"
    )
    assert_nothing_left(process)


def as_nobody(process: StockadeProcess, **environment: str) -> subprocess.CompletedProcess[str]:
    """`up -d` as uid 65534. It may read every file (the interpreter can be below /root) and write none but its own."""
    drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    drop += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return subprocess.run(
        [*drop, sys.executable, "-m", "gateway.cli.main", "up", "-d", str(process.config)],
        cwd=ROOT,
        env={**os.environ, "STOCKADE_STATE_DIR": str(process.state), "NO_COLOR": "1", **environment},
        text=True,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_a_port_in_use_is_said_with_who_has_it_and_which_key_to_change(key: str, short: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = "admin" if key == "listen" else "listen"
        text = f'gateway:\n  {key}: "127.0.0.1:{port}"\n  {other}: "127.0.0.1:0"\nmcpServers:\n{TIME}'
        process = stockade(short, text)
        said = refused(process)
    assert said.startswith(f"{process.config}:2:{len(key) + 5}: gateway.{key}: Port {port} is already in use by ")
    assert f"(pid {os.getpid()}). Stop it, or set `gateway.{key}` in the configuration to another port" in said


# One gateway with a server that works, and one for each way in which a single server can fail.

MIXED = (
    servers(TIME)
    + """
  no-pypi: {command: uvx, args: [stockade-no-such-server-zzq]}
  no-npm: {command: npx, args: ["@stockade-zzq/no-such-server"]}
  no-version: {command: uvx, args: ["mcp-server-time==99.0"]}
  no-image: {image: "registry.invalid/nothing:latest"}
  new-python: {command: uvx, args: [-p, "3.11", basic-memory]}
  no-secret: {command: uvx, args: [mcp-server-time], env: {TOKEN: "${secret:stockade-test-unset}"}}
  ends: {image: stockade-test-rogue, entrypoint: [/bin/sh, -c, "echo I need an API key >&2; exit 3"]}
  no-program: {image: stockade-test-rogue, entrypoint: [/bin/nonesuch]}
  mute: {image: stockade-test-rogue, entrypoint: [sleep, infinity], start_timeout_s: 5}
"""
)
PAUSED = "It failed 5 times in a row, so Stockade stopped retrying."
FAILURES = {
    "no-pypi": (
        "could not be built. stockade-no-such-server-zzq was not found on PyPI. Check the spelling, or set the index"
    ),
    "no-npm": "could not be built. The package @stockade-zzq/no-such-server was not found on npm. Check the spelling",
    "no-version": "could not be built. There is no such version: mcp-server-time==99.0. Name one that exists, or none",
    "no-image": (
        "The engine has no image registry.invalid/nothing:latest. Could not pull registry.invalid/nothing:latest: "
    ),
    "new-python": ("could not be built. Python 3.11 was asked for, and it installs on 3."),
    "no-secret": (
        "stockade.yaml:11:67: mcpServers.no-secret.env.TOKEN: the secret 'stockade-test-unset' is not set. "
    ),
    "ends": f"It exited with code 3. It printed: I need an API key. {PAUSED}",
    "no-program": f"exec /bin/nonesuch failed: No such file or directory. {PAUSED}",
}


@pytest.fixture(scope="module")
def mixed(engine: docker.DockerClient, python_base: str, workspace: Path) -> Iterator[tuple[StockadeProcess, str]]:
    """That gateway, up, every failure final; and what `up -d` said."""
    stage.build_rogue(engine, python_base, "stockade-test-rogue:latest")
    process = stockade(workspace, MIXED)
    try:
        said = process.run("up", "-d", str(process.config), check=False, timeout_s=600)
        assert said.returncode == 1, "servers failed"
        until(lambda: all(state(process)[name]["state"] == "failed" for name in FAILURES), "every failure is final")
        yield process, said.stdout + said.stderr
    finally:
        process.down()


def state(process: StockadeProcess) -> Mapping[str, Mapping[str, Any]]:
    return {backend["name"]: backend for backend in process.json("ps")["backends"]}


@pytest.mark.docker
@pytest.mark.parametrize("name", FAILURES)
def test_ps_says_why_a_server_failed_and_what_to_do(mixed: tuple[StockadeProcess, str], name: str) -> None:
    process, _ = mixed
    assert FAILURES[name] in state(process)[name]["detail"]
    (line,) = [line for line in process.run("ps").stdout.splitlines() if line.startswith(f"! {name}: ")]
    assert FAILURES[name] in line
    assert state(process)[name]["containers"] == []


@pytest.mark.docker
def test_up_tells_of_every_server_that_failed(mixed: tuple[StockadeProcess, str]) -> None:
    _, said = mixed
    assert "Servers   " in said
    assert {name for name in FAILURES if f"! {name}: " in said} == set(FAILURES)
    assert "Traceback" not in said


@pytest.mark.docker
async def test_the_other_servers_work(mixed: tuple[StockadeProcess, str]) -> None:
    process, _ = mixed
    async with client(process.endpoint, "") as connected:
        result = await connected.call_tool("time__get_current_time", {"timezone": "UTC"})
    assert "UTC" in str(result.content)
    assert state(process)["time"]["state"] == "running"


@pytest.mark.docker
def test_a_server_that_runs_and_does_not_answer_is_told_apart_and_started_again(
    mixed: tuple[StockadeProcess, str],
) -> None:
    process, _ = mixed
    until(lambda: state(process)["mute"]["restarts"] >= 1, "mute is started again")
    until(lambda: state(process)["mute"]["detail"].startswith("It "), "it is said of mute")
    assert state(process)["time"]["detail"] == ""
    assert state(process)["time"]["restarts"] == 0


@pytest.mark.docker
def test_a_server_that_failed_leaves_no_container(mixed: tuple[StockadeProcess, str]) -> None:
    process, _ = mixed
    found = on_the_engine(project_name(Config(), process.config))
    assert [name for name in found if any(failed in name for failed in FAILURES)] == []


@pytest.mark.docker
def test_after_down_nothing_is_left(mixed: tuple[StockadeProcess, str]) -> None:
    """Last in this file: it ends the gateway."""
    process, _ = mixed
    assert process.run("down").stdout == "Stopped.\n"
    assert_nothing_left(process)
