"""The `stockade` command: all commands put together. Heavy modules are imported inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli import backends, bridge, catalog, clients, connect, egress, importing, inspect, lifecycle, secrets
from gateway.cli.locate import Place
from gateway.cli.options import FileOption, Group, ProjectOption


def build() -> typer.Typer:
    """The whole command tree."""
    app = _typer("An MCP gateway that keeps every local MCP server behind a wall.")
    app.callback()(root)
    for module in (lifecycle, backends, inspect, catalog, importing, connect, bridge):
        module.register(app)
    for name, about, register in (
        ("egress", "What servers connect to, and what they may connect to.", egress.register),
        ("tools", "List the servers' tools; approve changed definitions.", backends.register_tools),
        ("client", "Manage AI clients and their tokens.", clients.register),
        ("secret", "Manage the secrets that `${secret:NAME}` refers to.", secrets.register),
        ("admin", "Manage the token of the admin page.", lifecycle.register_admin),
    ):
        group = _typer(about)
        register(group)
        app.add_typer(group, name=name)
    return app


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


def main() -> None:
    """The entry point of the `stockade` command."""
    build()()


if __name__ == "__main__":
    main()
