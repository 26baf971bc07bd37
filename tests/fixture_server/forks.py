"""Starts the fixture's servers as forks of a process that has imported the MCP SDK: 20 ms each, not the second of a Python.

`python -m tests.fixture_server.forks FD`: FD is a SEQPACKET socket. Each message asks for one process: a JSON object with
`arguments` (a module and its arguments) and `environment`, and with it three descriptors, for standard input, output and
error. The answer is the process id, and with it a pidfd. All of them end with this process, which ends with its client.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys

MAX_REQUEST = 128 * 1024
IMPORTS = (
    "mcp.server.stdio",
    "mcp.server.streamable_http_manager",
    "mcp.server.subscriptions",
    "starlette.applications",
    "starlette.routing",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)
"""What the servers import of others; not the servers' own modules, which each fork loads with a state of its own."""


def die_with_parent() -> None:
    """prctl(2), PR_SET_PDEATHSIG: also when the parent is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(client: socket.socket) -> list[str]:
    """Forks for each request. Returns in the forks alone: the arguments of the server to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps; the client watches the pidfd
    while True:
        message, descriptors, _, _ = socket.recv_fds(client, MAX_REQUEST, 3)
        if not message:
            raise SystemExit
        request = json.loads(message)
        sys.stdout.flush()
        sys.stderr.flush()
        if (pid := os.fork()) == 0:
            client.close()
            take_on(descriptors, request["environment"])
            arguments: list[str] = request["arguments"]
            return arguments
        pidfd = os.pidfd_open(pid)
        socket.send_fds(client, [str(pid).encode()], [pidfd])
        for descriptor in (pidfd, *descriptors):
            os.close(descriptor)


def take_on(descriptors: list[int], environment: dict[str, str]) -> None:
    """Makes this fork the process that was asked for."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)


def main() -> None:
    die_with_parent()
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # no fork looks through what all of them share
    module, *arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
