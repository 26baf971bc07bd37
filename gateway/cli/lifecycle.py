"""Commands that start and stop a gateway."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import offline
from gateway.cli.client import Api, Unreachable, url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place, display
from gateway.cli.options import (
    FileOption,
    JsonOption,
    ProjectOption,
    addresses,
    first_token,
    place,
    say,
    screen,
    summary,
)
from gateway.cli.unlock import unlock
from gateway.control.running import Running, find_gateway
from gateway.disk import in_words

if TYPE_CHECKING:
    from gateway.app import Gateway


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(reload)
    app.command()(version)


def up(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="Configuration file.", show_default=False)] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background; return when ready.")] = False,
    file: FileOption = None,
    project: ProjectOption = None,
    timeout: Annotated[float, typer.Option(help="With -d: how long to wait for it to be ready, in seconds.")] = 900,
    announce_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    log: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start the gateway and its servers."""
    from registry.config import project_name

    where = place(context, config or file, project)
    running = find_gateway(where.config(), where.project)
    if running and running.info.alive:
        _already(where, running, detach)
        return
    loaded = offline.load(where)  # what is wrong with the file is reported before the heavy modules are loaded
    _refuse_another(where.project or project_name(loaded, where.config()))
    if announce_fd is None:
        unlock()
    if detach:
        from gateway.cli.detached import up_detached

        up_detached(where, timeout)
    else:
        _up_here(where, announce_fd, log)


def _already(where: Place, running: Running, detach: bool) -> None:
    """A second `up -d` reads the file again. In the foreground there is nothing to attach to."""
    info = running.info
    if not detach:
        raise Failure(
            f"A gateway already runs for {display(Path(info.config))} (pid {info.pid}). Stop it first: stockade down"
        )
    api = Api(running.directory.control_socket)
    api.post(url("reload"))
    say("It is already running; the configuration was read again.")
    addresses(info.endpoint, info.admin)
    from gateway.cli.detached import told_of

    told_of(api.get(url("backends"))["backends"])


def _up_here(where: Place, announce_fd: int | None, log: Path | None) -> None:
    """Run until stopped. With `announce_fd`, a parent process waits for one JSON line on that descriptor. `log` is where
    to log until the gateway is ready and its own directory there.
    """
    from observability.log_file import RotatingLog

    handler = RotatingLog(log) if log is not None else None

    def ready(gateway: Gateway) -> None:
        told = {
            "endpoint": gateway.urls.endpoint,
            "admin": gateway.urls.admin,
            "admin_file": str(gateway.admin_token.path),
        }
        if handler is not None:
            handler.move(gateway.directory.log_file)
            told["log"] = str(gateway.directory.log_file)
        if announce_fd is not None:
            _announce(announce_fd, told)
        else:
            addresses(gateway.urls.endpoint, gateway.urls.admin)
            first_token(gateway.admin_token.path)
            summary([dataclasses.asdict(status) for status in gateway.supervisor.status()])

    try:
        run_gateway(where, ready, handler)
    except Failure as error:
        if announce_fd is not None:
            _announce(announce_fd, {"error": str(error)})
        raise


def run_gateway(where: Place, ready: Any, log: logging.Handler | None = None) -> None:
    """Run a gateway in this process. Raises Failure, in words, for every way in which it cannot start."""
    from gateway.app import run
    from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError, PlanError
    from registry.model.errors import ConfigError

    path = where.config()
    try:
        run(path, project=where.project, on_ready=ready, log=log)
    except (ConfigError, EngineError, PlanError, BackendUnavailable, OSError, ValueError) as error:
        raise Failure(_said(error)) from error
    except BaseExceptionGroup as group:
        known = group.subgroup((ConfigError, EngineError, PlanError, BackendUnavailable, OSError))
        if known is None:
            raise
        raise Failure("\n".join(dict.fromkeys(_leaves(known)))) from group


def _leaves(group: BaseException) -> list[str]:
    if isinstance(group, BaseExceptionGroup):
        return [text for inner in group.exceptions for text in _leaves(inner)]
    return [_said(group)]


def _said(error: BaseException) -> str:
    if isinstance(error, OSError):
        return in_words(error)
    name = getattr(error, "backend", "")  # of a BackendUnavailable, whose sentence leaves the server's name out
    return f"Server {name}: {error}" if name else str(error)


def _announce(descriptor: int, told: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(told).encode() + b"\n")
        os.close(descriptor)


def down(
    context: typer.Context,
    file: FileOption = None,
    project: ProjectOption = None,
    timeout: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 90,
) -> None:
    """Stop the gateway and remove what it started."""
    where = place(context, file, project)
    found = find_gateway(None if where.project else where.config(), where.project)
    if found and found.info.alive:
        _stop(found, timeout)
        screen.line("Stopped.")
        return
    removed = _clean(where, found)
    for text in removed:
        screen.line(f"Removed {text}")
    screen.line(
        "No gateway was running; what an earlier one left behind is removed." if removed else "Nothing is running."
    )


def _stop(found: Running, timeout_s: float) -> None:
    info = found.info
    try:
        Api(found.directory.control_socket).post(url("shutdown"))
    except Unreachable:
        os.kill(info.pid, 15)
    deadline = time.monotonic() + timeout_s
    while info.alive:
        if time.monotonic() > deadline:
            raise Failure(
                f"The gateway (pid {info.pid}) did not stop within {timeout_s:g} seconds. "
                f"End it with: kill -9 {info.pid}; then run stockade down again to remove what it leaves behind."
            )
        time.sleep(0.05)


def _clean(where: Place, found: Running | None) -> list[str]:
    """Remove what a crashed gateway left behind: containers, networks, its file and socket."""
    from gateway.app import clean
    from gateway.runtime.sandbox.errors import EngineError

    project = found.info.project if found else where.project or _project_of(where)
    _refuse_another(project)
    try:
        removed = list(clean(project))
    except EngineError as error:
        raise Failure(str(error)) from error
    if found:
        for path in (found.directory.control_socket, found.directory.gateway_file):
            path.unlink(missing_ok=True)
    return removed


def _refuse_another(project: str) -> None:
    """Raises Failure if the gateway of another file runs under this name: its containers are not ours to touch."""
    running = find_gateway(None, project)
    if running and running.info.alive:
        raise Failure(
            f"Project {project} is run by the gateway of another file, {running.info.config} (pid {running.info.pid}). "
            f"Give this file another `project`, or stop that one: stockade --project {project} down"
        )


def _project_of(where: Place) -> str:
    from registry.config import project_name
    from registry.load import load_config
    from registry.model.errors import ConfigError

    try:
        return project_name(load_config(where.config()))
    except ConfigError as error:
        raise Failure(f"{error}\nTo clean up without the file: stockade down --project NAME") from error


def reload(context: typer.Context, file: FileOption = None, project: ProjectOption = None) -> None:
    """Read the configuration again and apply it."""
    api = place(context, file, project).api()
    api.post(url("reload"))
    screen.line("Read and applied.")
    for text in api.get(url("status"))["warnings"]:
        say(f"! {text}")


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
    new: Annotated[bool, typer.Option("--new", help="Make a new token; the old one and its sessions end.")] = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Say whether the admin page has a token, or make a new one."""
    from gateway.control.auth import ADMIN_FILE, AdminToken
    from gateway.runtime.inventory.rundir import RunDirectory

    where = place(context, file, project)
    running = where.running()
    name = running.info.project if running else where.project or _project_of(where)
    directory = RunDirectory.of(name).persistent
    if not new:
        if AdminToken(directory / ADMIN_FILE).stored():
            screen.line("An admin token exists. Only its hash is stored, so it cannot be shown.")
        else:
            screen.line("There is no admin token yet, so no one can sign in to the page.")
        screen.line("A new one: stockade admin token --new")
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = AdminToken(directory / ADMIN_FILE).renew()
    if running:
        screen.line(f"Admin     {running.info.admin}")
    screen.line(f"Token     {fresh}   (shown only now)")
