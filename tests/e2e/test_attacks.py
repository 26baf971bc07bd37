"""Attacks by a server in a real container that no other test tries: swapped mounts, odd system calls, kernel modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from observability.events import BackendState
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def site() -> Iterator[Yard]:
    """A server with a folder that it may write to, and one inside of that, mounted too."""
    with yard() as found:
        work = found.directory / "work"
        (work / "inner").mkdir(parents=True)
        found.directory.chmod(0o755)
        for folder in (work, work / "inner"):
            folder.chmod(0o777)
        mounts = [f"{work}:/work", f"{work}/inner:/inner:ro"]
        found.up({"rogue": found.rogue(), "swaps": found.rogue(mounts=mounts)})
        yield found


CALLS = {
    "unshare(NEWUSER|NEWNET)": (272, 0x50000000),
    "setns": (308, 0, 0x40000000),
    "mount": (165, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "keyctl": (250, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 0),
    "open_by_handle_at": (304, -1, 0, 0),
    "open_tree": (428, -1, 0, 0),
    "fsopen": (430, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "pidfd_getfd": (438, -1, 0, 0),
    "clone(NEWUSER)": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "socket, the family in the upper half": (41, 0x100000000 | 40, 1, 0),
    "socket, a family beyond all": (41, 46, 1, 0),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_system_call_that_opens_more_is_denied(site: Yard, call: tuple[int, ...]) -> None:
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("numbers of x86-64")
    code = f"""
    import ctypes, errno
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(*[ctypes.c_long(value) for value in {call!r}])
    answer = (result, errno.errorcode.get(ctypes.get_errno()))
    """
    result, error = site.ask(code)
    assert (result, error) in ((-1, "EPERM"), (-1, "ENOSYS"))


@pytest.mark.parametrize(
    ("kind", "protocol"), [(1, 132), (5, 132), (6, 33), (2, 115), (2, 136), (3, 1), (3, 255), (10, 768), (2, 255)]
)
def test_of_ip_only_the_usual_protocols_are_there(site: Yard, kind: int, protocol: int) -> None:
    """SCTP, DCCP, L2TP and UDP-Lite would load modules; raw sockets and SOCK_PACKET (which becomes AF_PACKET) need more."""
    code = f"""
    import socket
    answer = []
    for family in (socket.AF_INET, socket.AF_INET6):
        try: socket.socket(family, {kind}, {protocol}).close()
        except OSError as error: answer.append(error.errno)
    """
    assert len(site.ask(code)) == 2


def test_ordinary_sockets_are_there(site: Yard) -> None:
    code = """
    import socket, os
    for protocol in (0, socket.IPPROTO_TCP): socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol).close()
    for protocol in (0, socket.IPPROTO_UDP): socket.socket(socket.AF_INET, socket.SOCK_DGRAM, protocol).close()
    socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close(); socket.socketpair()
    answer = socket.getaddrinfo("127.0.0.1", 80)[0][4][0]
    """
    assert site.ask(code) == "127.0.0.1"


def test_a_link_that_a_server_puts_where_a_mount_begins_is_not_followed(site: Yard) -> None:
    """The engine resolves a mount's source at each start of a container, as root."""
    assert site.ask("import os; answer = os.listdir('/inner')", "swaps") == []
    with pytest.raises(RuntimeError, match="ended"):
        site.ask("import os; os.rmdir('/work/inner'); os.symlink('/etc', '/work/inner'); os._exit(0)", "swaps")

    def refused() -> bool:
        status = {status.name: status for status in site.supervisor.status()}["swaps"]
        return status.state is BackendState.FAILED and "leads to /etc now" in status.detail

    site.until(refused, 30)
    assert site.ask("answer = 1") == 1
