"""Sockets: private, and with an error that helps when they are taken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest

from gateway.control.listen import HttpServer, ListenError, bind_tcp, bind_unix, port_owner


def test_the_control_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with bind_unix(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_socket_that_a_dead_gateway_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    bind_unix(path).close()
    bind_unix(path).close()


def test_a_socket_that_still_answers_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with bind_unix(path), pytest.raises(ListenError, match="stockade down"):
        bind_unix(path)


def test_a_path_too_long_for_the_kernel_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="STOCKADE_STATE_DIR"):
        bind_unix(tmp_path / ("x" * 120))


def test_a_taken_port_names_the_process_and_the_key_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as error:
            bind_tcp(f"127.0.0.1:{port}", "gateway.admin")
    assert f"Port {port} is already in use by" in str(error.value)
    assert f"(pid {os.getpid()})" in str(error.value)
    assert "`gateway.admin`" in str(error.value)


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(ListenError, match="not an address of this machine"):
        bind_tcp("203.0.113.7:0", "gateway.listen")


def test_a_free_port_has_no_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert port_owner(port) == ""


def test_ipv6_addresses_work() -> None:
    with bind_tcp("[::1]:0", "gateway.listen") as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.anyio
async def test_a_server_that_is_cancelled_closes_its_listeners_too() -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    listener = bind_tcp("127.0.0.1:0", "gateway.listen")
    port = listener.getsockname()[1]
    server = HttpServer(app)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run_on(listener))
        await server.up.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        async with asyncio.timeout(30):
            while not server.server_state.connections:
                await asyncio.sleep(0.01)
        task.cancel()
    assert listener.fileno() == -1
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    with bind_tcp(f"127.0.0.1:{port}", "gateway.listen"):
        pass


@pytest.mark.anyio
async def test_answers_do_not_wait_for_acknowledgements_on_asyncios_own_loop() -> None:
    """Nagle's algorithm is off for what is accepted; uvloop turns it off anyway, asyncio only where TCP is named."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def look(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        accepted.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = bind_tcp("127.0.0.1:0", "gateway.listen")
    async with await asyncio.start_server(look, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        async with asyncio.timeout(30):
            assert await accepted == 1
        writer.close()
