"""Debian's Squid as a corporate proxy that wants a password."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.stockade_process import until

USER, PASSWORD = "gate", "p@ss w:rd"
ESCAPED = "gate:p%40ss%20w%3Ard"
"""As a URL has to write them."""


@dataclass(frozen=True)
class Parent:
    """A running one."""

    port: int
    access: Path

    def lines(self) -> list[str]:
        """Its log: one line a request."""
        return self.access.read_text().splitlines() if self.access.exists() else []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def listens(port: int, address: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), timeout=1).close()
        return True
    return False


@contextlib.contextmanager
def squid(directory: Path, address: str, hosts: Mapping[str, str]) -> Iterator[Parent]:
    """Squid on that address, which resolves `hosts` (and nothing that we would know)."""
    program = shutil.which("squid") or "/usr/sbin/squid"
    port = free_port()
    directory.mkdir()
    directory.chmod(0o777)
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True)
    (directory / "users").write_text(f"{USER}:{hashed.stdout}")
    (directory / "hosts").write_text("".join(f"{where} {host}\n" for host, where in hosts.items()))
    (directory / "squid.conf").write_text(f"""
http_port {address}:{port}
hosts_file {directory}/hosts
auth_param basic program {next(Path("/usr/lib").glob("**/basic_ncsa_auth"))} {directory}/users
auth_param basic realm corporate
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
access_log stdio:{directory}/access.log
cache_log {directory}/cache.log
cache_store_log none
cache deny all
pid_filename {directory}/squid.pid
coredump_dir {directory}
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
max_filedescriptors 1024
""")
    process = subprocess.Popen([program, "-N", "-f", str(directory / "squid.conf")])
    try:
        until(lambda: listens(port, address), "squid listening")
        yield Parent(port, directory / "access.log")
    finally:
        process.terminate()
        process.wait(timeout=20)
