"""Commands about the tokens of AI clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import names, offline
from gateway.cli.client import url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place
from gateway.cli.options import (
    DryRunOption,
    FileOption,
    JsonOption,
    ProjectOption,
    place,
    say,
    screen,
)

if TYPE_CHECKING:
    from gateway.connect.clients import Row

SHOWN = ("claude-code", "cursor", "vscode", "codex")


def register(app: typer.Typer) -> None:
    app.command()(add)
    app.command()(ls)
    app.command(name="rm")(remove)


def endpoint_of(where: Place) -> str:
    """Where clients connect: the running gateway's endpoint, else what the file says."""
    if found := where.running():
        return found.info.endpoint
    listen = offline.load(where).gateway.listen
    return f"http://{listen}/mcp"


def mint(where: Place, name: str, servers: list[str] | None, *, renew: bool) -> str:
    """A new token for a client; the file gets its digest. Goes through the gateway if one runs."""
    if where.running():
        body = {"name": name, "renew": renew, **({"servers": servers} if servers else {})}
        return str(where.api().post(url("clients"), body)["token"])
    from gateway.control.tokens import mint as new_token
    from registry.edit import add_client

    if not renew and name in offline.load(where).clients:
        raise Failure(f"There is a client {name!r} already. A new token for it: stockade client add {name} --renew")
    token, digest = new_token()
    wanted = add_client(name, digest, {"servers": servers} if servers else None)
    offline.edit_file(where.config_to_write(), wanted, dry_run=False)
    return token


def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for the client.", autocompletion=names.known_clients)],
    server: Annotated[
        list[str] | None,
        typer.Option(help="Limit to this server (repeatable; default: all).", autocompletion=names.servers),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Replace the token of a client that exists.")] = False,
    file: FileOption = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token for an AI client, and print it once.

    It comes with what to paste into Claude Code, Cursor, VS Code and Codex.
    """
    from gateway.connect.connect import snippets

    where = place(context, file, project)
    endpoint = endpoint_of(where)
    token = mint(where, name, server, renew=renew)
    pasted = snippets(endpoint, token, SHOWN)
    if as_json:
        screen.json({"name": name, "token": token, "endpoint": endpoint, "snippets": pasted})
        return
    screen.line(f"Token of {name} (shown only now; the file has its digest):")
    screen.line(token, "bold")
    for client, text in pasted.items():
        screen.line()
        screen.line(f"{client_row(client).title}: {client_row(client).file()}", "bold")
        screen.block(text)


def ls(
    context: typer.Context, file: FileOption = None, project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """List the AI clients that have a token, and what they see."""
    from gateway.control.tokens import client_json

    found = [
        client_json(name, client) for name, client in offline.load(place(context, file, project)).clients.items()
    ]
    if as_json:
        screen.json(found)
        return
    screen.table(["client", "token", "servers", "tools"], [_client_row(client) for client in found])
    if not found:
        say("No client has a token, so every program on this machine may connect. Make one: stockade client add NAME")


def _client_row(client: Mapping[str, Any]) -> list[object]:
    servers = client["servers"]
    tools = client["tools"]
    rules = [*(f"+{glob}" for glob in tools.get("allow") or []), *(f"-{glob}" for glob in tools.get("deny") or [])]
    shown = "all" if servers == "*" else ", ".join(servers)
    return [client["name"], "yes" if client["has_token"] else "no", shown, " ".join(rules) or "all"]


def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The client.", autocompletion=names.clients)],
    dry_run: DryRunOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Remove a client and revoke its token."""

    def in_file() -> Any:
        from registry.edit import remove_client

        return remove_client(name)

    target = url("clients", name, dry_run=dry_run)
    where = place(context, file, project)
    if offline.change(where, lambda api: api.delete(target), in_file, dry_run=dry_run):
        say("Its token no longer works.")


def client_row(name: str) -> Row:
    from gateway.connect.connect import row_named

    try:
        return row_named(name)
    except KeyError as error:
        raise Failure(error.args[0]) from None
