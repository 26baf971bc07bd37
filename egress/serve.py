"""The proxy without Docker: one listener, one policy, for every caller of this machine.

`stockade egress serve --policy F --listen A:P --resolve HOST:PORT:ADDRESS`, or `python -m egress.serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from egress.connection.backend import Source
from egress.connection.dialer import Dialer
from egress.journal.loglines import LineWriter
from egress.journal.record import Recorder
from egress.listener.http_fast_path import serve_proxy
from egress.net.accept import Acceptor
from egress.net.interfaces import interface_addresses
from egress.net.limits import raise_fd_limit
from egress.net.poller import Pollers
from egress.net.resolver import RESOLVING, Resolver, SystemResolver
from egress.policy.decide import PolicyError, parse_policy
from egress.service.server import Egress
from egress.service.surroundings import parse_around
from observability.events import Severity

NAME = "standalone"
MANY: Mapping[str, Any] = {"connections": 100_000, "rate": 1_000_000.0}
"""Limits where the policy has none: all callers are one backend here."""


def listening_socket(listen: str) -> socket.socket:
    """A socket that listens on `ADDRESS:PORT` (`[IPV6]:PORT`). Raises ValueError or OSError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{listen!r}: write ADDRESS:PORT, such as 127.0.0.1:3128")
    address = ipaddress.ip_address(host.strip("[]"))
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address), int(port)))
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


async def serve(
    block: Mapping[str, object],
    sock: socket.socket,
    *,
    resolve: Sequence[str] = (),
    upstream_proxy: str | None = None,
    no_proxy: Sequence[str] = (),
    resolver: Resolver | None = None,
    log: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[Egress], None] | None = None,
    drain_s: float = 5.0,
) -> None:
    """Serve the policy `block` on `sock` until `stop` is set (without one: SIGTERM or SIGINT), then drain.

    Loopback addresses are opened by an explicit IP rule or by `resolve`, the listener's own port excepted; private
    ones as ever. Raises PolicyError, or ValueError for a `resolve` entry that cannot be read.
    """
    with sock:
        parse_policy(block)
        message = push(block, sock.getsockname()[1], interface_addresses(), resolve, upstream_proxy, no_proxy)
        parse_around(message["surroundings"], frozenset())
        await serve_on(sock, message, resolver, log, stop, on_ready, drain_s)


async def serve_on(
    sock: socket.socket,
    message: Mapping[str, Any],
    resolver: Resolver | None,
    log: Callable[[str], None] | None,
    stop: asyncio.Event | None,
    on_ready: Callable[[Egress], None] | None,
    drain_s: float,
) -> None:
    """Serve what a gateway would have pushed, until `stop`."""
    loop = asyncio.get_running_loop()
    if stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    recorder = Recorder(epoch=secrets.token_hex(8), log=log)
    system = SystemResolver(loop.time)
    pollers = Pollers(loop)
    dialer = Dialer.unconfigured(resolver or system, pollers)
    async with asyncio.TaskGroup() as tasks:
        egress = Egress(loop, tasks, recorder, dialer, own=frozenset())
        egress.apply(message)
        source = Source(egress.backends[NAME], "", recorder)
        egress.sources.add(source)

        def broken(error: OSError) -> None:
            recorder.notice("listener_failed", f"the listener broke: {error}", severity=Severity.ERROR)
            stop.set()

        def note_shed() -> None:
            egress.shed += 1

        acceptor = Acceptor(
            source.backend.poller,
            sock,
            egress.reserve,
            on_connection=lambda connection, address: egress.admit(source, connection, address, serve_proxy),
            on_failure=broken,
            on_shed=note_shed,
        )
        sweep = tasks.create_task(egress.sweep())
        if on_ready is not None:
            on_ready(egress)
        await stop.wait()
        acceptor.close()
        await egress.drain(drain_s)
        sweep.cancel()
        egress.close()
    pollers.close()
    system.close()


def push(
    block: Mapping[str, object],
    port: int,
    own: frozenset[Any],
    resolve: Sequence[str],
    upstream_proxy: str | None,
    no_proxy: Sequence[str],
) -> dict[str, Any]:
    """The push that a gateway would make. This machine's addresses are the host's; only our own port is closed."""
    limits = block.get("limits")
    limits = {**MANY, **limits} if isinstance(limits, Mapping) else MANY
    return {
        "backends": {NAME: {**block, "limits": limits}},
        "surroundings": {
            "host_addresses": [str(address) for address in own],
            "gateway_ports": [port],
            "resolve": list(resolve),
            "upstream_proxy": upstream_proxy,
            "no_proxy": list(no_proxy),
            "standalone": True,
        },
    }


def read_block(path: Path) -> Mapping[str, object]:
    """The `network:` block in a JSON or YAML file. Raises OSError or ValueError."""
    text = path.read_text()
    if path.suffix == ".json":
        block = json.loads(text)
    else:
        from ruamel.yaml import YAML  # not in the egress container, which never reads a file

        block = YAML(typ="safe").load(text)
    if isinstance(block, dict) and set(block) == {"network"}:
        block = block["network"]
    if not isinstance(block, dict):
        raise ValueError(f"{path}: a policy file is a mapping, as the network: block of a server")
    return block


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of the standalone proxy."""
    parser = argparse.ArgumentParser(prog="stockade egress serve", description=__doc__)
    parser.add_argument("--policy", type=Path, required=True, help="the network: block of a server, YAML or JSON")
    parser.add_argument("--listen", default="127.0.0.1:3128", help="ADDRESS:PORT")
    parser.add_argument("--resolve", action="append", default=[], metavar="HOST:PORT:ADDRESS")
    parser.add_argument("--upstream-proxy", metavar="URL")
    parser.add_argument("--no-proxy", default="", help="comma-separated")
    parser.add_argument("--quiet", action="store_true", help="no log lines")
    options = parser.parse_args(arguments)
    from egress.__main__ import run_loop

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    raise_fd_limit()
    os.environ.update(RESOLVING)
    log = None if options.quiet else LineWriter()
    try:
        block, sock = read_block(options.policy), listening_socket(options.listen)
        host, port = sock.getsockname()[:2]
        said = f"stockade egress serve: listening on {host}:{port}"
        run_loop(
            serve(
                block,
                sock,
                resolve=options.resolve,
                upstream_proxy=options.upstream_proxy,
                no_proxy=options.no_proxy.split(","),
                log=log.write if log is not None else None,
                on_ready=lambda _: print(said, file=sys.stderr, flush=True),  # noqa: T201
            )
        )
    except PolicyError as error:
        for problem in error.problems:
            print(f"{options.policy}: {'.'.join(map(str, problem.path))}: {problem.message}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        where = error.filename or options.listen
        print(f"stockade egress serve: {where}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return 2
    except ValueError as error:
        print(f"stockade egress serve: {error}", file=sys.stderr)  # noqa: T201
        return 2
    finally:
        if log is not None:
            log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
