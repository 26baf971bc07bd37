"""`stockade bridge`: the endpoint on standard streams."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gateway.cli import names
from gateway.cli.clients import endpoint_of
from gateway.cli.failure import Failure
from gateway.cli.options import FileOption, ProjectOption, place


def register(app: typer.Typer) -> None:
    app.command()(bridge)


def bridge(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Argument(help="Limit to this server (default: all).", show_default=False, autocompletion=names.servers),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--url", help="Use this endpoint instead of the gateway's own.", show_default=False)
    ] = None,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Speak MCP on stdin and stdout, to clients that start programs.

    The token is read from the environment variable STOCKADE_TOKEN.
    """
    import asyncio

    from gateway.connect.bridge import on_standard_streams

    endpoint = at or endpoint_of(place(context, file, project))
    if not endpoint.startswith(("http://", "https://")):
        raise Failure(f"{endpoint!r} is not an http:// URL.")
    if server:
        endpoint = f"{endpoint.removesuffix('/mcp')}/servers/{server}/mcp"
    asyncio.run(on_standard_streams(endpoint, os.environ.get("STOCKADE_TOKEN", "")))
