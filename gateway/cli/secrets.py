"""Commands about secrets: the values that `${secret:NAME}` in the file refers to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gateway.cli import offline
from gateway.cli.client import Refused, url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place
from gateway.cli.names import secrets
from gateway.cli.options import FileOption, ProjectOption, place, say, screen

NameArgument = Annotated[str, typer.Argument(help="The NAME in ${secret:NAME}.", autocompletion=secrets)]


def register(app: typer.Typer) -> None:
    app.command(name="set")(keep)
    app.command(name="rm")(forget)


def keep(context: typer.Context, name: NameArgument, file: FileOption = None, project: ProjectOption = None) -> None:
    """Store a secret, and restart the servers that use it.

    The value is prompted for without an echo, or read from stdin.
    """
    from registry.secrets import SecretError, SecretStore

    value = _given(name)
    if not value:
        raise Failure("No value was given, so nothing was changed.")
    try:
        path = SecretStore().set(name, value)
    except SecretError as error:
        raise Failure(str(error)) from error
    screen.line(f"Stored in {path}, which only you can read.")
    _start_again(place(context, file, project), name)


def _given(name: str) -> str:
    if sys.stdin.isatty():
        value: str = typer.prompt(f"Value of {name} (not shown)", hide_input=True, default="", show_default=False)
        return value
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def _start_again(where: Place, name: str) -> None:
    """Restart the servers whose entries use the secret, if a gateway runs."""
    from registry.secrets import needed_by

    if where.running() is None:
        return
    for server in needed_by(offline.load(where), name):
        try:
            where.api().post(url("backends", server, "restart"), {})
        except Refused as error:
            say(f"! {server}: {error}")
        else:
            screen.line(f"{server} was restarted with it.")


def forget(name: NameArgument) -> None:
    """Remove a stored secret.

    A running server keeps the value until it is restarted.
    """
    from registry.secrets import SecretError, SecretStore

    try:
        SecretStore().remove(name)
    except SecretError as error:
        raise Failure(str(error)) from error
    screen.line(f"{name} was removed.")
