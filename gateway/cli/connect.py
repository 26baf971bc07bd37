"""Commands that add Stockade to AI clients' own files, and remove it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import offline
from gateway.cli.client import Refused, url
from gateway.cli.clients import client_row, endpoint_of, mint
from gateway.cli.failure import Failure
from gateway.cli.locate import Place
from gateway.cli.names import known_clients
from gateway.cli.options import (
    FileOption,
    ProjectOption,
    YesOption,
    confirmed,
    place,
    say,
    screen,
)

if TYPE_CHECKING:
    from gateway.connect.clients import Row
    from gateway.connect.connect import Change

PLACEHOLDER = "TOKEN-OF-THIS-CLIENT"


def register(app: typer.Typer) -> None:
    app.command()(connect)
    app.command()(disconnect)


def connect(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CLIENT", help="Clients to configure (default: all detected).", autocompletion=known_clients
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print what to paste; change nothing.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the supported clients.")] = False,
    repo: Annotated[
        Path | None, typer.Option(help="Write the client's file in this repository, not the user's own.")
    ] = None,
    inline: Annotated[
        bool, typer.Option("--inline", help="Write the token itself, not a variable that holds it.")
    ] = False,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Write no token, for an endpoint that is open to this machine.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option("--url", help="Point at this endpoint instead of the gateway's own.", show_default=False),
    ] = None,
    replaced: Annotated[
        bool,
        typer.Option("--replace", help="Also remove the servers that the client starts itself and the gateway has."),
    ] = False,
    yes: YesOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Configure AI clients to use the gateway (asks first).

    It shows the change to each client's own file, asks once, and keeps a backup.
    """
    from gateway.connect.connect import installed

    if listing:
        _list_clients()
        return
    where = place(context, file, project)
    rows = [client_row(name) for name in names] if names else installed()
    if not rows:
        raise Failure(
            "Found no AI client here. Name one: stockade connect cursor (stockade connect --list shows all)"
        )
    endpoint = at or endpoint_of(where)
    if show:
        _print_snippets(rows, endpoint, no_token, inline)
        return
    removing = (
        {row.name: _superseded(where, row, _target(row, repo)) for row in rows if row.writable} if replaced else {}
    )
    plans = _plans(rows, endpoint, repo, inline, no_token, removing)
    if not plans or not confirmed(f"Write {len(plans)} file(s)?", yes, look="--print"):
        raise Failure("Nothing was changed.")
    for plan in plans:
        _write(where, plan, endpoint, inline, no_token, removing.get(plan.row.name, []))
        _tell_started(where, plan)


def _superseded(where: Place, row: Row, path: Path) -> list[str]:
    """The servers in a client's file that the gateway has under the name that `import` gives them."""
    from gateway.connect.connect import started_in
    from registry.importers.adopt import names_of

    ours = offline.load(where).servers
    return [written for name, written in names_of(started_in(row, path)).items() if name in ours]


def _tell_started(where: Place, plan: Change) -> None:
    """Say which servers the client still starts itself, and how that ends."""
    from gateway.connect.connect import started_in

    row = plan.row
    if not (names := list(started_in(row, plan.path))):
        return
    one = len(names) == 1
    say(
        f"! {row.title} still starts {'a server' if one else f'{len(names)} servers'} itself, outside the wall: "
        f"{', '.join(names)}."
    )
    if _superseded(where, row, plan.path):
        say(f"  To take out of its file what the gateway runs too: stockade connect {row.name} --replace")
    else:
        say(
            f"  To have {'it' if one else 'them'} run by the gateway: stockade import {plan.path}, then "
            f"stockade connect {row.name} --replace"
        )


def _list_clients() -> None:
    from gateway.connect.clients import ROWS
    from gateway.connect.connect import installed

    here = {row.name for row in installed()}
    rows = [
        [r.name, r.title, "yes" if r.name in here else "", str(r.file()), f"{r.verified_on} ({r.evidence})"]
        for r in ROWS
    ]
    screen.table(["client", "title", "found", "file", "verified"], rows)


def _print_snippets(rows: list[Row], endpoint: str, no_token: bool, inline: bool) -> None:
    from gateway.connect.connect import credentials_for
    from gateway.connect.edits import write_snippet

    for row in rows:
        credentials = credentials_for(row, endpoint, "" if no_token else PLACEHOLDER, by_variable=not inline)
        screen.line(f"{row.title}: {row.file()}", "bold")
        screen.block(write_snippet(row, credentials))
        for note in filter(None, [row.note, "" if no_token else f"Its token: stockade client add {row.name}"]):
            say(note)


def _target(row: Row, repo: Path | None) -> Path:
    if repo is None:
        return row.file()
    if not row.repo_path:
        raise Failure(f"{row.title} has no file of its own in a repository.")
    return repo / row.repo_path


def _plans(
    rows: list[Row],
    endpoint: str,
    repo: Path | None,
    inline: bool,
    no_token: bool,
    removing: Mapping[str, Sequence[str]],
) -> list[Change]:
    """The changes to show, with a placeholder for the token, which is made after the confirmation."""
    from gateway.connect.connect import credentials_for, plan_connect
    from registry.file.json_edit import EditRefused

    plans: list[Change] = []
    for row in rows:
        if not row.writable:
            say(f"{row.title}: {row.note} What to paste: stockade connect {row.name} --print")
            continue
        credentials = credentials_for(row, endpoint, "" if no_token else PLACEHOLDER, by_variable=not inline)
        try:
            plan = plan_connect(row, credentials, _target(row, repo), removing.get(row.name, ()))
        except EditRefused as error:
            say(str(error))
            continue
        screen.diff(plan.diff())
        plans.append(plan)
    return plans


def _write(where: Place, plan: Change, endpoint: str, inline: bool, no_token: bool, removing: Sequence[str]) -> None:
    from gateway.connect.connect import apply, credentials_for, plan_connect, variable_for
    from registry.file.json_edit import EditRefused

    row = plan.row
    token = "" if no_token else mint(where, row.name, None, renew=True)
    credentials = credentials_for(row, endpoint, token, by_variable=not inline)
    try:
        backup = apply(replace(plan_connect(row, credentials, plan.path, removing), before=plan.before))
    except (EditRefused, OSError) as error:
        raise Failure(str(error)) from error
    screen.line(f"{row.title}: written to {plan.path}" + (f" (before: {backup.name})" if backup else ""))
    if removing:
        say(f"Removed from it: {', '.join(removing)}. To have them back: stockade disconnect {row.name} --restore")
    if credentials.variable:
        screen.line(
            f"It reads its token from a variable. Add this line to your shell profile, then restart {row.title}:"
        )
        screen.line(f"export {variable_for(row)}={token}")
    if row.note:
        say(row.note)


def disconnect(
    context: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="CLIENT", help="Clients to change.", autocompletion=known_clients)
    ],
    repo: Annotated[
        Path | None, typer.Option(help="Change the client's file in this repository, not the user's own.")
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put back the servers that `connect --replace` removed.")
    ] = False,
    yes: YesOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Remove Stockade from AI clients' files; revoke their tokens."""
    from gateway.connect.connect import apply, plan_disconnect, plan_restore, started_in
    from registry.file.json_edit import EditRefused

    where = place(context, file, project)
    try:
        plans = []
        for row in map(client_row, names):
            path = _target(row, repo)
            back = plan_restore(row, path) if restore else None
            if restore and back is None:
                say(f"{row.title}: no backup of {path} has a server that is missing in it.")
            plans.append(back or plan_disconnect(row, path))
    except EditRefused as error:
        raise Failure(str(error)) from error
    for plan in plans:
        screen.diff(plan.diff()) if plan.needed else say(f"{plan.row.title}: {plan.path} does not name Stockade.")
    if any(plan.needed for plan in plans) and not confirmed("Write these files?", yes, look=""):
        raise Failure("Nothing was changed.")
    before = {plan.row.name: started_in(plan.row, plan.path) for plan in plans}
    for plan in plans:
        if plan.needed:
            apply(plan)
            screen.line(f"{plan.row.title}: removed from {plan.path}")
            if added := [name for name in started_in(plan.row, plan.path) if name not in before[plan.row.name]]:
                say(f"Put back into it: {', '.join(added)}.")
        _end_token(where, plan.row.name)


def _end_token(where: Place, name: str) -> None:
    """Remove the client from the configuration, if it is in it."""
    if where.running():
        try:
            ended = where.api().delete(url("clients", name))
            _tell(ended["warnings"])
        except Refused as error:
            if error.status != 404:
                raise
        return
    from registry.edit import remove_client

    try:
        known = offline.load(where).clients
    except Failure:
        return
    if name in known:
        _tell(offline.edit_file(where.config(), remove_client(name), dry_run=False).worth_knowing)


def _tell(warnings: Iterable[str]) -> None:
    for text in warnings:
        say(f"! {text}")
