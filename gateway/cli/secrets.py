"""Commands about secrets: what `${secret:NAME}` in the file stands for."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.cli import offline
from gateway.cli.client import Refused, url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place
from gateway.cli.options import FileOption, ProjectOption, place, say, screen

NameArgument = Annotated[str, typer.Argument(help="The secret's name, as in ${secret:NAME}.")]


def register(app: typer.Typer) -> None:
    app.command(name="set")(keep)
    app.command(name="rm")(forget)


def keep(context: typer.Context, name: NameArgument, file: FileOption = None, project: ProjectOption = None) -> None:
    """Keep a secret: asked for without an echo, or read from stdin; servers that need it are started again."""
    from registry.secrets import SecretError, SecretStore

    value = _given(name)
    if not value:
        raise Failure("Nothing was given, so nothing was changed.")
    try:
        path = SecretStore().set(name, value)
    except SecretError as error:
        raise Failure(str(error)) from error
    screen.line(f"Kept in {path}, which only you can read.")
    _start_again(place(context, file, project), name)


def _given(name: str) -> str:
    if sys.stdin.isatty():
        value: str = typer.prompt(f"Value of {name} (not shown)", hide_input=True, default="", show_default=False)
        return value
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def _start_again(where: Place, name: str) -> None:
    """The servers whose entries name the secret, where a gateway runs."""
    from registry.secrets import needed_by

    if where.running() is None:
        return
    for server in needed_by(offline.load(where), name):
        try:
            where.api().post(url("backends", server, "restart"), {})
        except Refused as error:
            say(f"! {server}: {error}")
        else:
            screen.line(f"{server} is started again with it.")


def forget(name: NameArgument) -> None:
    """Remove a secret's file. A server that runs keeps what it was given until it is started again."""
    from registry.secrets import SecretError, SecretStore

    try:
        SecretStore().remove(name)
    except SecretError as error:
        raise Failure(str(error)) from error
    screen.line(f"{name} is removed.")
