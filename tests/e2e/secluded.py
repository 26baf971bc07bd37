"""Programs of other people, run where nothing can leave the machine: a network namespace with nothing but `lo`.

One port of its 127.0.0.1 is the host's: the listening socket is made inside and served outside, as a door's is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Secluded:
    """Such a namespace, kept by a process that sleeps."""

    pid: int

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: str = "",
        enough: str = "",
        timeout_s: float = 90,
    ) -> str:
        """What a command printed. With `enough` it is ended as soon as a line has that in it."""
        process = subprocess.Popen(
            ["nsenter", "--target", str(self.pid), "--net", *command],
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        ending = threading.Timer(timeout_s, process.kill)
        ending.start()
        try:
            process.stdin.write(stdin)
            process.stdin.flush()
            if not enough:
                process.stdin.close()
            said = []
            for line in process.stdout:
                said.append(line)
                if enough and enough in line:
                    break
            return "".join(said)
        finally:
            ending.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(OSError):
                process.stdin.close()


@contextlib.contextmanager
def secluded(port: int) -> Iterator[Secluded]:
    """A namespace whose 127.0.0.1:`port` is this machine's."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"up\n"
            with listening_inside(holder.pid, port) as listener, forwarding(listener, port):
                yield Secluded(holder.pid)
        finally:
            holder.kill()


def listening_inside(pid: int, port: int) -> socket.socket:
    """A listening socket on 127.0.0.1:`port` in the namespace of a process. Raises OSError."""
    made: list[socket.socket | OSError] = []

    def make() -> None:  # in a thread that ends: its namespace is another one now
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_server(("127.0.0.1", port)))
        except OSError as error:
            made.append(error)
        finally:
            os.close(fd)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


@contextlib.contextmanager
def forwarding(listener: socket.socket, port: int) -> Iterator[None]:
    """Joins each connection that comes in to one to 127.0.0.1:`port` here."""
    stop, stopper = socket.socketpair()
    thread = threading.Thread(target=forward, args=(listener, port, stop))
    thread.start()
    try:
        yield
    finally:
        stopper.close()
        thread.join()
        stop.close()


def forward(listener: socket.socket, port: int, stop: socket.socket) -> None:
    """Until `stop` ends."""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(stop, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is stop:
                    return
                if key.fileobj is listener:
                    inside = opened.enter_context(listener.accept()[0])
                    outside = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
                    selector.register(inside, selectors.EVENT_READ, outside)
                    selector.register(outside, selectors.EVENT_READ, inside)
                    continue
                source, sink = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                data = b""
                with contextlib.suppress(OSError):
                    data = source.recv(65536)
                with contextlib.suppress(OSError):
                    sink.sendall(data) if data else sink.shutdown(socket.SHUT_WR)
                if not data:
                    selector.unregister(source)
