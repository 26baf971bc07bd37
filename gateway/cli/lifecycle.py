"""Commands that start and stop a gateway."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.client import Api, Unreachable, url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place, display
from gateway.cli.options import (
    FileOption,
    JsonOption,
    ProjectOption,
    place,
    say,
    screen,
)
from gateway.control.rundir import ADMIN_FILE, CONTROL_SOCKET, LOG_FILE, GatewayFile, find_gateway

if TYPE_CHECKING:
    from gateway.app import Gateway

LOG_LINES = 15
MAX_LOG = 8 * 1024 * 1024


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(reload)
    app.command()(version)


def up(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="Configuration file.", show_default=False)] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background, return when ready.")] = False,
    file: FileOption = None,
    project: ProjectOption = None,
    timeout: Annotated[float, typer.Option(help="With -d: the longest to wait, in seconds.")] = 900,
    announce_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start the gateway and its servers."""
    where = place(context, config or file, project)
    running = find_gateway(where.config(), where.project)
    if running and running[1].alive:
        _already(where, running, detach)
    elif detach:
        up_detached(where, timeout)
    else:
        _up_here(where, announce_fd)


def _already(where: Place, running: tuple[Path, GatewayFile], detach: bool) -> None:
    """`up -d` may be said twice: the file is read again. In the foreground there is nothing to attach to."""
    directory, info = running
    if not detach:
        raise Failure(
            f"A gateway already runs for {display(Path(info.config))} (pid {info.pid}). Stop it first: stockade down"
        )
    Api(directory / CONTROL_SOCKET).post(url("reload"))
    say("It is running already; the configuration was read again.")
    _addresses(info.endpoint, info.admin, None)


def _up_here(where: Place, announce_fd: int | None) -> None:
    """Run until stopped. With `announce_fd`, a parent process waits for one JSON line on that descriptor."""

    def ready(gateway: Gateway) -> None:
        token = gateway.admin_token.ensure()
        told = {"endpoint": gateway.urls.endpoint, "admin": gateway.urls.admin, "token": token}
        if announce_fd is not None:
            _announce(announce_fd, told)
        else:
            _addresses(gateway.urls.endpoint, gateway.urls.admin, token)

    try:
        run_gateway(where, ready)
    except Failure as error:
        if announce_fd is not None:
            _announce(announce_fd, {"error": str(error)})
        raise


def run_gateway(where: Place, ready: Any) -> None:
    """Run a gateway in this process. Raises Failure, in words, for every way in which it cannot start."""
    from gateway.app import run
    from gateway.runtime.errors import BackendUnavailable, EngineError, PlanError
    from registry.config import ConfigError

    path = where.config()
    try:
        run(path, project=where.project, on_ready=ready)
    except (ConfigError, EngineError, PlanError, BackendUnavailable, OSError, ValueError) as error:
        raise Failure(str(error)) from error
    except BaseExceptionGroup as group:
        known = group.subgroup((ConfigError, EngineError, PlanError, BackendUnavailable, OSError))
        if known is None:
            raise
        raise Failure("\n".join(dict.fromkeys(_leaves(known)))) from group


def _leaves(group: BaseException) -> list[str]:
    if isinstance(group, BaseExceptionGroup):
        return [text for inner in group.exceptions for text in _leaves(inner)]
    return [str(group)]


def _announce(descriptor: int, told: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(told).encode() + b"\n")
        os.close(descriptor)


def up_detached(where: Place, timeout_s: float) -> None:
    """Start a process of its own, wait until it is ready, say where it is; or say why it ended."""
    from gateway.runtime.rundir import RunDirectory, runtime_root

    path = where.config().resolve()
    log = runtime_root() / f"{where.project or 'up-' + str(os.getpid())}.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "gateway.cli.main", "up", str(path), "--announce-fd", str(writing)]
    command += ["--project", where.project] if where.project else []
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        child = subprocess.Popen(  # noqa: S603  # our own command
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, pass_fds=[writing]
        )
    os.close(writing)
    try:
        told = _first_word(reading, child, timeout_s, log)
    finally:
        os.close(reading)
    found = find_gateway(path, where.project)
    if found:
        log.replace(RunDirectory(path=found[0], persistent=found[0]).path / LOG_FILE)
        _wait_ready(found[0] / CONTROL_SOCKET, child, timeout_s)
    _addresses(told["endpoint"], told["admin"], told.get("token"))


def _first_word(reading: int, child: subprocess.Popen[bytes], timeout_s: float, log: Path) -> dict[str, Any]:
    """The line that the child announces. Raises Failure with its error, or the end of its log."""
    readable, _, _ = select.select([reading], [], [], timeout_s)
    if not readable:
        raise Failure(
            f"The gateway is not ready after {timeout_s:g} seconds; it goes on starting. Look: stockade ps, {log}"
        )
    line = b""
    while not line.endswith(b"\n") and (chunk := os.read(reading, 65536)):
        line += chunk
    if not line:
        code = child.wait(10)
        raise Failure(f"The gateway ended with code {code} while it started.\n{tail_of(log)}")
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        child.wait(60)
        log.unlink(missing_ok=True)
        raise Failure(told["error"])
    return told


def _wait_ready(socket_path: Path, child: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Poll /readyz until it says yes."""
    api, deadline, shown = Api(socket_path), time.monotonic() + timeout_s, ""
    while (detail := readiness(api)) is not None:
        if child.poll() is not None:
            raise Failure(
                f"The gateway ended with code {child.returncode}.\n{tail_of(socket_path.with_name(LOG_FILE))}"
            )
        if time.monotonic() > deadline:
            raise Failure(f"The gateway is not ready after {timeout_s:g} seconds: {detail}")
        if detail != shown:
            say(detail)
            shown = detail
        time.sleep(0.2)


def readiness(api: Api) -> str | None:
    """None when the gateway is ready, else what it says it is doing."""
    from gateway.cli.client import Refused

    try:
        api.get("/readyz")
    except Refused as error:
        return str(error)
    except Unreachable:
        return "The gateway is starting."
    return None


def tail_of(log: Path) -> str:
    """The last lines of a log."""
    try:
        lines = log.read_text(errors="replace")[-MAX_LOG:].splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES:])


def _addresses(endpoint: str, admin: str, token: str | None) -> None:
    screen.line(f"Endpoint  {endpoint}")
    screen.line(f"Admin     {admin}")
    if token:
        screen.line(f"Token     {token}   (for the admin page; shown only now)")


def down(
    context: typer.Context,
    file: FileOption = None,
    project: ProjectOption = None,
    timeout: Annotated[float, typer.Option(help="The longest to wait, in seconds.")] = 90,
) -> None:
    """Stop the gateway and remove what it started."""
    where = place(context, file, project)
    found = find_gateway(None if where.project else where.config(), where.project)
    if found and found[1].alive:
        _stop(found, timeout)
        screen.line("Stopped.")
        return
    removed = _clean(where, found)
    for text in removed:
        screen.line(f"Removed {text}")
    screen.line("No gateway was running; what it had left is gone." if removed else "Nothing is running.")


def _stop(found: tuple[Path, GatewayFile], timeout_s: float) -> None:
    directory, info = found
    try:
        Api(directory / CONTROL_SOCKET).post(url("shutdown"))
    except Unreachable:
        os.kill(info.pid, 15)
    deadline = time.monotonic() + timeout_s
    while info.alive:
        if time.monotonic() > deadline:
            raise Failure(
                f"The gateway (pid {info.pid}) did not stop within {timeout_s:g} seconds. "
                f"End it with: kill -9 {info.pid}; then run stockade down again, which removes what it leaves."
            )
        time.sleep(0.05)


def _clean(where: Place, found: tuple[Path, GatewayFile] | None) -> list[str]:
    """Remove what a gateway that died left: containers, networks, its file and socket."""
    from gateway.app import clean
    from gateway.runtime.errors import EngineError

    project = found[1].project if found else where.project or _project_of(where)
    try:
        removed = list(clean(project))
    except EngineError as error:
        raise Failure(str(error)) from error
    if found:
        for name in (CONTROL_SOCKET, "gateway.json"):
            (found[0] / name).unlink(missing_ok=True)
    return removed


def _project_of(where: Place) -> str:
    from registry.config import ConfigError, load_config, project_name

    try:
        return project_name(load_config(where.config()))
    except ConfigError as error:
        raise Failure(f"{error}\nTo clean up without the file: stockade down --project NAME") from error


def reload(context: typer.Context, file: FileOption = None, project: ProjectOption = None) -> None:
    """Read the configuration again and apply it."""
    place(context, file, project).api().post(url("reload"))
    screen.line("Read again and applied.")


def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    found = installed("stockade")
    if as_json:
        screen.json({"version": found, "python": sys.version.split()[0]})
    else:
        screen.line(f"stockade {found}")


def register_admin(app: typer.Typer) -> None:
    app.command()(token)


def token(
    context: typer.Context,
    new: Annotated[bool, typer.Option("--new", help="Make a new one; the old one and its sessions end.")] = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """The token of the admin page."""
    from gateway.control.auth import AdminToken
    from gateway.runtime.rundir import RunDirectory

    where = place(context, file, project)
    running = where.running()
    name = running[1].project if running else where.project or _project_of(where)
    directory = RunDirectory.of(name).persistent
    if not new:
        made = "was made" if AdminToken(directory / ADMIN_FILE).stored() else "was not made yet"
        screen.line(f"The admin token {made}. It is kept as a digest, so it cannot be shown again.")
        screen.line("A new one: stockade admin token --new")
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = AdminToken(directory / ADMIN_FILE).renew()
    if running:
        screen.line(f"Admin     {running[1].admin}")
    screen.line(f"Token     {fresh}   (shown only now)")
