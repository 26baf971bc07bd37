"""Starts a gateway in a process of its own and waits until it is ready, or says why it ended.

The child writes one JSON line to a pipe when it is ready: its addresses, or the error that ended it. It logs to a file of
its own, which it moves into the project's directory when it is ready. Until then /readyz on its control socket reports its
progress.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.cli.client import Api, Refused, Unreachable, url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place
from gateway.cli.options import addresses, failed, first_token, say, screen, summary
from gateway.cli.unlock import handed_over
from gateway.control.base import GatewayState
from gateway.control.running import find_gateway
from gateway.disk import in_words
from gateway.runtime.inventory.rundir import persistent_root

LOG_LINES = 15
LOOK_EVERY_S = 0.3
MAX_LOG = 1024 * 1024


def up_detached(where: Place, timeout_s: float) -> None:
    """Start it, wait, print where it is. Raises Failure with what went wrong."""
    path = where.config().resolve()
    log = persistent_root() / f"up-{os.getpid()}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        reading, child = _spawn(path, where.project, log)
    except OSError as error:
        raise Failure(in_words(error, log, "used")) from error
    try:
        told = first_word(reading, child, timeout_s, log, Progress(path, where.project))
    finally:
        os.close(reading)
    addresses(told["endpoint"], told["admin"])
    first_token(Path(told["admin_file"]))
    screen.line(f"Log       {told['log']}")
    if found := find_gateway(path, where.project):
        told_of(Api(found.directory.control_socket).get(url("backends"))["backends"])


def told_of(backends: Sequence[Mapping[str, Any]]) -> None:
    """Print how the servers are. Raises Failure when some failed: the gateway runs, and the others with it."""
    summary(backends)
    if names := failed(backends):
        raise Failure(f"{', '.join(names)} did not start (see above). The gateway runs, with all other servers.")


class Progress:
    """Prints each step of a starting gateway once (the first start builds images, which takes minutes)."""

    def __init__(self, path: Path, project: str | None) -> None:
        self._path = path
        self._project = project
        self._shown = ""

    def __call__(self) -> None:
        found = find_gateway(self._path, self._project)
        detail = readiness(Api(found.directory.control_socket)) if found and found.info.alive else None
        if detail and detail != self._shown:
            self._shown = detail
            say(detail)


def _spawn(path: Path, project: str | None, log: Path) -> tuple[int, subprocess.Popen[bytes]]:
    """The child, in a session of its own, and the end of the pipe to read from."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "gateway.cli.main", "up", str(path), "--announce-fd", str(writing)]
    command += ["--log", str(log)]
    command += ["--project", project] if project else []
    env = dict(os.environ)
    handed = handed_over(env)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        child = subprocess.Popen(  # noqa: S603  # our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
            pass_fds=[writing, *handed],
        )
    for handle in (writing, *handed):
        os.close(handle)
    return reading, child


def first_word(
    reading: int,
    child: subprocess.Popen[bytes],
    timeout_s: float,
    log: Path,
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The line that the child announces when it is ready; `meanwhile` is called from time to time until then.

    Raises Failure with the child's error, or the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not select.select([reading], [], [], min(timeout_s, LOOK_EVERY_S))[0]:
        if time.monotonic() > deadline:
            raise Failure(
                f"The gateway is not ready after {timeout_s:g} seconds; it is still starting. "
                f"Look at `stockade ps` and at its log, {log}; `stockade down` ends it."
            )
        meanwhile()
    line = b""
    while not line.endswith(b"\n") and (chunk := os.read(reading, 65536)):
        line += chunk
    if not line:
        code = child.wait(10)
        raise Failure(f"The gateway ended with code {code} while it started.\n{tail_of(log)}")
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        child.wait(60)
        for piece in log.parent.glob(f"{log.name}*"):
            piece.unlink(missing_ok=True)
        raise Failure(told["error"])
    return told


def readiness(api: Api) -> str | None:
    """What a starting gateway says it is preparing; None in every other state, or when it does not answer yet."""
    try:
        api.get("/readyz")
    except Refused as error:
        return str(error) if error.code == GatewayState.PREPARING else None
    except Unreachable:
        return None
    return None


def tail_of(log: Path) -> str:
    """The last lines of a log."""
    try:
        lines = log.read_text(errors="replace")[-MAX_LOG:].splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES:])
