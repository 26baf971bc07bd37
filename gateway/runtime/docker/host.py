"""Where the Docker Engine is, and what to do when it cannot be used: every exception of the SDK becomes a sentence here."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors
import docker.tls
import requests.exceptions

from gateway.runtime.docker import arguments
from gateway.runtime.docker.attach import Endpoint
from gateway.runtime.docker.refusals import kind_of
from gateway.runtime.sandbox.errors import BuildError, EngineError, EngineUnreachable

CALL_TIMEOUT_S: Final = 60
DEFAULT_SOCKET: Final = "unix:///var/run/docker.sock"


def engine_host() -> str:
    """The engine's address: DOCKER_HOST, else the current context's, else the default socket."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    try:
        context = docker.context.ContextAPI.get_current_context()
        host = context.Host if context is not None else None
    except Exception:  # a damaged context file is no reason not to try the default socket
        host = None
    return str(host or DEFAULT_SOCKET).replace("http+unix://", "unix://")


def require_this_kernel(host: str, kernel: str, here: str = os.uname().release) -> None:
    """Raises EngineError when the engine's kernel is not this machine's: then no directory and no socket is shared."""
    if kernel and kernel != here:
        raise EngineError(
            f"The Docker engine at {host} runs on another machine (kernel {kernel}, here {here}): a remote engine, or "
            "the virtual machine of Docker Desktop. Stockade meets its egress over sockets in a shared directory, so "
            "run it on the machine of the engine, or use an engine of this machine (Debian: apt-get install docker.io)."
        )


def endpoint_of(host: str) -> Endpoint:
    """Where to open hijacked connections for an engine address. Raises EngineError for ssh and named pipes."""
    parts = urllib.parse.urlsplit(host)
    match parts.scheme:
        case "unix" | "http+unix":
            return Endpoint(unix=Path(parts.path))
        case "tcp" | "http" | "https":
            tls = docker.tls.TLSConfig() if parts.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY") else None
            return Endpoint(
                host=parts.hostname or "127.0.0.1", port=parts.port or 2375, tls=tls_context() if tls else None
            )
        case scheme:
            raise EngineError(
                f"An engine at {scheme}:// is not supported. Use a UNIX socket or tcp://, for example "
                "`ssh -L /tmp/engine.sock:/var/run/docker.sock HOST` and DOCKER_HOST=unix:///tmp/engine.sock."
            )


def tls_context() -> Any:
    """The TLS context of DOCKER_CERT_PATH."""
    import ssl

    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


def check_socket(host: str) -> None:
    """Raises OSError when an engine's UNIX socket does not answer (the SDK would lose its descriptor then)."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CALL_TIMEOUT_S)
            probe.connect(host.removeprefix("unix://"))


@contextlib.contextmanager
def translated(host: str, what: str) -> Iterator[None]:
    """Turns what the SDK raises into our sentences."""
    try:
        yield
    except docker.errors.BuildError as error:
        raise BuildError(str(error.msg)) from None
    except docker.errors.APIError as error:
        sentence = arguments.error_sentence(error.explanation or error)
        raise kind_of(error.status_code, sentence)(f"Could not {what}: {sentence}") from None
    except docker.errors.DockerException as error:
        raise unreachable(host, error) from None
    except requests.exceptions.Timeout:
        raise EngineUnreachable(f"The Docker engine at {host} did not answer in time to {what}.") from None
    except (requests.exceptions.RequestException, OSError) as error:
        raise unreachable(host, error) from None


def unreachable(host: str, error: BaseException) -> EngineUnreachable:
    """Why the engine cannot be talked to, and what to do."""
    where = f"{host} (from DOCKER_HOST)" if os.environ.get("DOCKER_HOST") == host else host
    if caused_by(error, PermissionError):
        return EngineUnreachable(
            f"This user may not use the Docker engine at {where}. Run `sudo usermod -aG docker $USER` and log in "
            "again, or run stockade with sudo."
        )
    if caused_by(error, FileNotFoundError):
        return EngineUnreachable(
            f"There is no Docker engine at {where}. Install one (Debian, Ubuntu: `sudo apt-get install docker.io`) or "
            "say where it is with DOCKER_HOST."
        )
    return EngineUnreachable(
        f"The Docker engine at {where} does not answer ({short_cause(str(error))}). Start it (`sudo systemctl start "
        "docker`) or say where it is with DOCKER_HOST."
    )


def caused_by(error: object, kind: type[OSError]) -> bool:
    """Whether an error is of that kind or wraps one, as the SDK and the libraries below it do: as cause or argument."""
    waiting, seen = [error], set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, kind):
            return True
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            waiting += [found.__cause__, found.__context__, *found.args]
    return False


CAUSE: Final = re.compile(
    r"(?i)connection refused|timed out|no route to host|network is unreachable|connection reset by peer"
    r"|name or service not known|temporary failure in name resolution|certificate verify failed"
)


def short_cause(text: str) -> str:
    """The system's own words in what the SDK wraps around them; without such words, its beginning."""
    found = CAUSE.search(text)
    return found[0].lower() if found else text[:200]
