"""The standalone proxy as a process of its own, on uvloop and on plain asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from egress.serve import main
from tests.egress.harness import Client, echo, upstream

pytestmark = pytest.mark.anyio

NAME = "db.example"


@asynccontextmanager
async def process(tmp_path: Path, port: int, loop: str) -> AsyncIterator[tuple[Process, int]]:
    """`python -m egress.serve` with one opaque target; the process and its port."""
    policy = {"allowed_hosts": [{"host": NAME, "port": port, "protocol": "tcp"}]}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    command = [sys.executable, "-m", "egress.serve", "--policy", str(tmp_path / "policy.json")]
    command += ["--listen", "127.0.0.1:0", "--resolve", f"{NAME}:{port}:127.0.0.1"]
    environment = {**os.environ, "STOCKADE_LOOP": loop}
    served = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment)
    try:
        assert served.stderr is not None
        async with asyncio.timeout(30):
            said = (await served.stderr.readline()).decode()
        assert "listening on 127.0.0.1:" in said
        yield served, int(said.rpartition(":")[2])
    finally:
        if served.returncode is None:
            served.kill()
            await served.communicate()


async def reached(port: int) -> Client:
    async with asyncio.timeout(60):
        while True:
            try:
                return Client(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


async def short_tunnel(proxy: int, port: int, gate: asyncio.Semaphore) -> None:
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy)
        writer.write(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\nping".encode())
        writer.write_eof()
        async with asyncio.timeout(60):
            assert (await reader.read()).endswith(b"ping")
        writer.close()
        await writer.wait_closed()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.slow
async def test_twelve_thousand_half_closed_tunnels_leave_the_process_as_it_was(tmp_path: Path) -> None:
    """uvloop ends the process ("double free") when half-closed transports are dropped without close()."""
    async with upstream(echo) as port, process(tmp_path, port, "uvloop") as (served, listen):
        first = await reached(listen)
        assert "403" in (await first.get("http://evil.example/"))[0]
        base = descriptors(served.pid)
        for _ in range(3):
            gate = asyncio.Semaphore(64)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(4000):
                    tasks.create_task(short_tunnel(listen, port, gate))
            assert served.returncode is None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while descriptors(served.pid) > base:
                    await asyncio.sleep(0.05)
        assert descriptors(served.pid) <= base
        first.writer.close()
        await first.writer.wait_closed()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_it_serves_logs_its_decisions_and_drains_on_sigterm(tmp_path: Path, loop: str) -> None:
    async with upstream(echo) as port, process(tmp_path, port, loop) as (served, listen):
        client = await reached(listen)
        assert "200" in await client.connect(f"{NAME}:{port}")
        denied = await reached(listen)
        assert "403" in await denied.connect("evil.example:443")
        served.send_signal(signal.SIGTERM)
        await client.send(b"still open")
        assert await client.exactly(10) == b"still open"
        for each in (client, denied):
            each.writer.close()
            await each.writer.wait_closed()
        async with asyncio.timeout(60):
            out, err = await served.communicate()
        assert (served.returncode, err) == (0, b"")
        lines = [json.loads(line) for line in out.splitlines()]
        assert [(line["decision"], line["host"]) for line in lines] == [("allow", NAME), ("deny", "evil.example")]


@pytest.mark.parametrize(
    ("resolve", "said"),
    [
        ("foo", "stockade egress serve: 'foo': write HOST:PORT:ADDRESS"),
        ("a.example:443:b", "stockade egress serve: 'b' does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_a_resolve_that_cannot_be_read_is_one_sentence_and_nothing_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], resolve: str, said: str
) -> None:
    (tmp_path / "policy.json").write_text("{}")
    arguments = [
        "--policy",
        str(tmp_path / "policy.json"),
        "--listen",
        "127.0.0.1:0",
        "--resolve",
        resolve,
        "--quiet",
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"{said}\n"


def test_what_the_system_refuses_is_told_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "policy.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--policy", str(tmp_path / "policy.json"), "--listen", listen, "--quiet"]) == 2
    assert capsys.readouterr().err == f"stockade egress serve: {listen}: Address already in use\n"
    assert main(["--policy", str(tmp_path / "none.json"), "--listen", "127.0.0.1:0", "--quiet"]) == 2
    assert capsys.readouterr().err == f"stockade egress serve: {tmp_path}/none.json: No such file or directory\n"


@pytest.mark.parametrize(
    ("policy", "listen", "said"),
    [
        ('{"allowed_hosts": ["https://a.example/"]}', "127.0.0.1:0", "is a URL"),
        ("[]", "127.0.0.1:0", "is a mapping"),
        ("{}", "3128", "write ADDRESS:PORT"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, listen: str, said: str
) -> None:
    (tmp_path / "policy.json").write_text(policy)
    assert main(["--policy", str(tmp_path / "policy.json"), "--listen", listen, "--quiet"]) == 2
    assert said in capsys.readouterr().err
