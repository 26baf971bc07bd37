"""The tree of commands. For one command only its own module is loaded: the others cost more than most commands do."""

from __future__ import annotations

import importlib
from typing import Annotated, Final

import typer

from gateway.cli.locate import Place
from gateway.cli.options import FileOption, Group, ProjectOption

ABOUT: Final = "An MCP gateway that keeps every local MCP server behind a wall."
COMMANDS: Final = {
    "lifecycle": ("up", "down", "reload", "version"),
    "backends": ("ps", "logs", "restart"),
    "inspect": ("validate", "doctor"),
    "catalog": ("search", "info", "run", "rm"),
    "importing": ("import",),
    "connect": ("connect", "disconnect"),
    "bridge": ("bridge",),
}
"""Modules of this folder, and the commands that each one registers."""
GROUPS: Final = {
    "egress": ("egress", "register", "What servers connect to, and what they may connect to."),
    "tools": ("backends", "register_tools", "List the servers' tools; approve changed definitions."),
    "client": ("clients", "register", "Manage AI clients and their tokens."),
    "secret": ("secrets", "register", "Manage the secrets that `${secret:NAME}` refers to."),
    "admin": ("lifecycle", "register_admin", "Manage the token of the admin page."),
}
"""Groups of commands: the module, its function, and the help."""


def build(only: str | None = None) -> typer.Typer:
    """The tree: all of it, or what is needed for this command or group, if there is one of that name."""
    app = _typer(ABOUT)
    app.callback()(root)
    whole = only not in GROUPS and not any(only in names for names in COMMANDS.values())
    for module, names in COMMANDS.items():
        if whole or only in names:
            _function(module, "register")(app)
    for name, (module, function, about) in GROUPS.items():
        if whole or only == name:
            group = _typer(about)
            _function(module, function)(group)
            app.add_typer(group, name=name)
    return app


def _function(module: str, name: str):  # type: ignore[no-untyped-def]  # a register function, which takes a Typer
    return getattr(importlib.import_module(f"gateway.cli.{module}"), name)


def _typer(about: str) -> typer.Typer:
    return typer.Typer(
        cls=Group,
        help=about,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # not while the shell asks for completions
        from gateway.cli import lifecycle

        lifecycle.version()
        raise typer.Exit


def root(
    context: typer.Context,
    file: FileOption = None,
    project: ProjectOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """An MCP gateway that keeps every local MCP server behind a wall."""
    context.obj = Place(file=file, project=project)
