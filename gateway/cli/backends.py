"""Commands about backends: what runs, what it prints, which tools it has."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from gateway.cli import names
from gateway.cli.client import url
from gateway.cli.options import (
    FileNoShort,
    FileOption,
    FollowOption,
    JsonOption,
    ProjectOption,
    ServerArgument,
    is_troubled,
    place,
    say,
    screen,
    shown_state,
    troubles,
)
from gateway.cli.outside import started_outside
from gateway.cli.terminal import Cell, clean

TOOL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
STATE_STYLE = {"running": "green", "remote": "cyan", "failed": "red bold", "backoff": "yellow", "building": "yellow"}


def register(app: typer.Typer) -> None:
    app.command()(ps)
    app.command()(logs)
    app.command()(restart)


def ps(
    context: typer.Context, file: FileOption = None, project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """List servers with their state and warnings."""
    api = place(context, file, project).api()
    status, backends = api.get(url("status")), api.get(url("backends"))["backends"]
    if as_json:
        outside = [asdict(one) for one in started_outside()]
        both = {"servers": backends, "backends": backends}  # the second is the old key, for one more version
        screen.json({"status": status, **both, "outside": outside})
        return
    screen.line(f"{status['urls']['endpoint']}   project {status['project']}   up {_ago(status['started'])}")
    if not status["ready"]:
        screen.line(status["detail"], "yellow")
    columns = ["name", "state", "isolated", "transport", "restarts", "since", "detail"]
    screen.table(columns, map(_row, backends), drop=["restarts", "transport", "since", "detail"])
    _remarks(status, backends)
    for one in started_outside():
        screen.line(f"! {one.sentence([backend['name'] for backend in backends])}", "yellow")


def _row(backend: Mapping[str, Any]) -> list[object]:
    isolated = (
        Cell("yes", "green") if backend["isolated"] else Cell("remote" if backend["remote"] else "NO", "red bold")
    )
    return [
        backend["name"],
        Cell(
            shown_state(backend) if backend["state"] != "stopped" else "stopped",
            STATE_STYLE.get(backend["state"], ""),
        ),
        isolated,
        backend["transport"],
        backend["restarts"],
        _ago(backend["since"]),
        Cell(_detail(backend)),
    ]


def _detail(backend: Mapping[str, Any]) -> str:
    if not is_troubled(backend):
        return clean(backend["detail"], 60)
    return f"exited {_ago(backend['ended'])} ago, see below" if backend.get("ended") else "see below"


def _remarks(status: Mapping[str, Any], backends: list[Mapping[str, Any]]) -> None:
    """Print what must not be overlooked: failures in full, warnings, and every trust override in force."""
    for text in troubles(backends):
        for line in text.splitlines():
            screen.line(line, "red")
    for text in status["warnings"]:
        screen.line(f"! {text}", "yellow")
    for backend in backends:
        said = (
            1 if backend["name"] in status["warned"] else 0
        )  # the first of a server's own says that it is not isolated
        for text in backend["warnings"][said:]:
            screen.line(f"! {backend['name']}: {text}", "yellow")
        for text in backend["left_out"]:
            screen.line(f"! {backend['name']}: {text}", "yellow")
    for override in status["overrides"]:
        host, port, address = override.split(":", 2)
        screen.line(
            f"! Trust override (egress.resolve): {host}:{port} is always reached at {address}, "
            "without a lookup and without the address check.",
            "yellow",
        )


def _ago(moment: float) -> str:
    """`45s`, `12m`, `3h`, `5d` since a Unix time."""
    passed = max(0, int(time.time() - moment)) if moment else 0
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= size:
            return f"{passed // size}{unit}"
    return f"{passed}s"


def logs(
    context: typer.Context,
    name: ServerArgument,
    follow: FollowOption = False,
    tail: Annotated[int, typer.Option("--tail", "-n", help="How many earlier lines to print first.")] = 200,
    file: FileNoShort = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a server printed.

    Of a stdio server that is its standard error.
    """
    api = place(context, file, project).api()
    if follow:
        for kind, line in api.stream(url("backends", name, "logs", tail=tail, follow=True)):
            if kind == "message":
                _log_line(line, as_json)
        return
    for line in api.get(url("backends", name, "logs", tail=tail))["lines"]:
        _log_line(line, as_json)


def _log_line(line: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        screen.json_line(line)
        return
    clock = time.strftime("%H:%M:%S", time.localtime(line["time"]))
    instance = f" {line['instance']}" if "/" in line["instance"] else ""
    screen.raw(f"{clock}{clean(instance)} {clean(line['text'])}")


def restart(
    context: typer.Context,
    name: ServerArgument,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Restart a server."""
    place(context, file, project).api().post(url("backends", name, "restart"))
    screen.line(f"{name} was restarted.")


def ls(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="Limit to this server (default: all).", show_default=False, autocompletion=names.servers),
    ] = None,
    file: FileOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the servers' tools, and what changed in them."""
    api = place(context, file, project).api()
    names = [name] if name else [backend["name"] for backend in api.get(url("backends"))["backends"]]
    found = [api.get(url("backends", backend)) for backend in names]
    if as_json:
        screen.json({backend["name"]: backend["tools"] for backend in found})
        return
    rows = [(backend["name"], tool) for backend in found for tool in backend["tools"]]
    screen.table(["server", "tool", "description"], [_tool_row(backend, tool) for backend, tool in rows])
    remarks = [text for backend in found for text in _tool_remarks(backend)]
    if not rows and not remarks:
        say("No server has listed its tools yet; they are read when a client first asks.")
    for text in remarks:
        say(text)


def _tool_remarks(backend: Mapping[str, Any]) -> list[str]:
    """Why a server has no tools to show, and what differs from the approved definitions."""
    name, hidden = backend["name"], backend["entry"].get("pin") == "strict"
    remarks = [f"! {name}: {backend['detail']}"] if backend["detail"] and not backend["tools"] else []
    remarks += [f"! {name}: {text}" for text in (*backend["left_out"], *backend["reshaped"])]
    for one in backend["changed_tools"]:
        tool = clean(one["tool"], 80)
        state = " It is hidden (pin: strict)." if hidden else ""
        remarks.append(f"! {name}: the definition of {tool} differs from the approved one.{state}")
        lines = list(difflib.unified_diff(one["before"].splitlines(), one["after"].splitlines(), lineterm="", n=0))
        remarks += [f"  {clean(line, 400)}" for line in lines[2:] if not line.startswith("@@")]
        if TOOL.fullmatch(one["tool"]):  # people paste it into a shell
            remarks.append(f"  Once you have read it: stockade tools approve {name} {tool}")
    return remarks


def _tool_row(backend: str, tool: Mapping[str, Any]) -> list[object]:
    about = " ".join(str(tool.get("description") or "").split())
    return [backend, tool.get("name", ""), Cell(clean(about, 100))]


def approve(
    context: typer.Context,
    name: ServerArgument,
    tool: Annotated[
        str, typer.Argument(help="The tool whose definition changed.", autocompletion=names.changed_tools)
    ],
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Accept the changed definition of a tool after reading it."""
    place(context, file, project).api().post(url("tools", "approve"), {"backend": name, "tool": tool})
    screen.line(f"Approved: {name} is now held to the current definition of {tool}.")


def register_tools(app: typer.Typer) -> None:
    app.command()(ls)
    app.command()(approve)
