"""How a backend ended, or why it is late, in words for people. Pure, except for `listening`, which asks the kernel.

What a backend printed is read for advice only.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from gateway.runtime.sandbox.last_words import last_words
from gateway.runtime.sandbox.unwritten import for_people, unusable
from registry.model.errors import sentence
from registry.model.sources import ImageSource, LocalSource

KILLED: Final = 137
"""The exit code of a container that SIGKILL ended."""
IN_USE: Final = re.compile(r"EADDRINUSE|address (?:is )?already in use", re.IGNORECASE)
LISTEN: Final = "0A"
"""The state of a listening socket in /proc/net/tcp."""
SHOWN_PORTS: Final = 5

Listener = tuple[str, int]
"""An address of the container, and a port."""


def exit_sentence(
    code: int,
    printed: list[str],
    source: LocalSource,
    *,
    out_of_memory: bool = False,
    listened: frozenset[int] = frozenset(),
) -> str:
    """How a backend ended, with the lines that tell why. `listened`: the ports that its door listens on."""
    if out_of_memory:
        how = "ran out of memory (raise `resources.memory`)"
    elif code == KILLED:
        how = "was killed"
    else:
        how = f"exited with code {code}"
    last = words_of(printed, source) or "It printed nothing on standard error."
    return f"It {how}. {last}{taken_port(printed, listened)}"


def words_of(printed: list[str], source: LocalSource) -> str:
    """What it printed last, and advice for a missing program or for a path that it could not use; empty without any line."""
    packages = None if isinstance(source, ImageSource) else source.system_packages
    last = last_words(printed, builds=packages is not None, packages=packages or ())
    more = for_people(unusable("\n".join(printed), missing=True), source)
    return f"{sentence(last)} {more}" if more else last


def taken_port(printed: list[str], listened: frozenset[int]) -> str:
    """Why a backend could not bind a port, if that is what it printed and the port may be one of ours."""
    if not listened or not any(IN_USE.search(line) for line in printed):
        return ""
    ports = ", ".join(map(str, sorted(listened)))
    return (
        f" Inside its container Stockade listens on {ports}, to see connections that ignore the proxy: let the server "
        "listen on another port. A server that speaks MCP over HTTP may have any but 53 and 3128: write it as `port`."
    )


def listening(pid: int, container: str, proc: Path = Path("/proc")) -> frozenset[Listener] | None:
    """Where programs in a container's network listen; None where this process does not see that."""
    process = proc / str(pid)
    try:
        if container not in (process / "cgroup").read_text():
            return None
        lines = [line for name in ("tcp", "tcp6") for line in table(process / "net" / name)]
        return frozenset(listener(line.split()[1]) for line in lines if line.split()[3] == LISTEN)
    except (OSError, ValueError, IndexError):
        return None


def table(path: Path) -> list[str]:
    """The lines of a table of the kernel without its head; none where the kernel has no such protocol."""
    try:
        return path.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []


def listener(text: str) -> Listener:
    """An address as /proc/net/tcp has it: words of 32 bits in the machine's order (little-endian), and the port."""
    address, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
    return str(ipaddress.ip_address(raw)), int(port, 16)


def late_sentence(found: Collection[Listener] | None, port: int, ours: Collection[int], *, isolated: bool) -> str:
    """Why nothing accepts connections on `port`, from where programs listen; empty where that is not known. `ours`: the
    ports that the door listens on."""
    if found is None:
        return ""
    here = [ipaddress.ip_address(address) for address, number in found if number == port]
    if here and not isolated and all(address.is_loopback for address in here):
        return (
            f"In its container it listens on {here[0]}:{port} only, which nothing outside of it can reach: let it listen on "
            "0.0.0.0 (often the option --host, or a variable such as HOST)."
        )
    others = sorted({number for _, number in found} - set(ours) - {port})
    if not here and others:
        shown = ", ".join(map(str, others[:SHOWN_PORTS]))
        return f"In its container it listens on port {shown}, not on {port}: write that as `port`."
    return "" if here else f"Nothing in its container listens on port {port} yet."


def late_words(printed: Sequence[str], source: LocalSource, why: str) -> str:
    """What is known of a backend that does not start: its last lines, and `why`."""
    said = words_of(list(printed), source)
    return " ".join(filter(None, (sentence(said) if said else "", why)))
