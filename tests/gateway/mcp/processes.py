"""The fixture's servers as processes with pipes: forked from one that has their imports, where the command allows it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
LIMIT = 64 * 1024


async def start(command: Sequence[str], *, piped: bool) -> asyncio.subprocess.Process | Fork:
    """The process of a command, with a pipe at standard error and, where `piped`, at standard input and output."""
    environment, arguments = dict(os.environ), list(command)
    while arguments[:1] == ["env"] and "=" in arguments[1]:
        name, _, value = arguments.pop(1).partition("=")
        environment[name] = value
    if arguments[:1] == ["env"]:
        arguments.pop(0)
    if arguments[:2] == [sys.executable, "-m"]:
        return await Fork.start(arguments[2:], environment, piped=piped)
    how = asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=how, stdout=how, stderr=asyncio.subprocess.PIPE, limit=LIMIT
    )


class Fork:
    """A forked server, with what the tests use of `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """0 when it has ended; how it ended only its parent could know."""
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        self._transports: list[asyncio.BaseTransport] = []
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)

    @classmethod
    async def start(cls, arguments: list[str], environment: dict[str, str], *, piped: bool) -> Fork:
        """`arguments`: the module and what follows it."""
        # Pairs of sockets, as uvloop has it for its own children: a file object's descriptor it would close twice.
        pairs = [socket.socketpair() for _ in range(3 if piped else 1)]
        ours, (error, *others) = [one for one, _ in pairs], [other.detach() for _, other in pairs]
        theirs = [*others, error] if piped else [*[os.open(os.devnull, os.O_RDWR)] * 2, error]
        try:
            made = cls(*_fork(arguments, environment, theirs))
        finally:
            for descriptor in set(theirs):
                os.close(descriptor)
        connecting = made._loop.create_task(made._connect(*ours))
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:  # a pipe that uvloop connects half it closes, and so does whoever made it
            await connecting
            with contextlib.suppress(ProcessLookupError):
                made.kill()
            await made.wait()
            made.close()
            raise
        return made

    async def _connect(
        self, errors: socket.socket, written: socket.socket | None = None, answers: socket.socket | None = None
    ) -> None:
        self.stderr = await self._reader(errors)
        if answers is not None:
            self.stdout = await self._reader(answers)
        if written is not None:
            transport, protocol = await self._loop.connect_write_pipe(asyncio.streams.FlowControlMixin, written)
            self._transports.append(transport)
            self.stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)

    async def _reader(self, pipe: socket.socket) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=LIMIT)
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._transports.append(transport)
        return reader

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = 0
        self._ended.set()

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        return 0

    def close(self) -> None:
        """Closes its pipes."""
        for transport in self._transports:
            transport.close()


def _fork(arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> tuple[int, int]:
    """(pid, pidfd) of a new fork. Waits for it: a few milliseconds, the first time as long as the imports take."""
    forks = _forks()
    request = json.dumps({"arguments": arguments, "environment": environment})
    socket.send_fds(forks, [request.encode()], descriptors)
    pid, (pidfd,), _, _ = socket.recv_fds(forks, 64, 1)
    return int(pid), pidfd


@functools.cache
def _forks() -> socket.socket:
    """The process that forks: one for each process of the tests, started when it is first needed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    with theirs:
        command = [sys.executable, "-m", "tests.fixture_server.forks", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    atexit.register(_end, ours, process)
    return ours


def _end(forks: socket.socket, process: subprocess.Popen[Any]) -> None:
    forks.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
