"""Names that the shell completes: servers, clients, secrets, the catalog's servers, hosts that were blocked.

A completion waits while a person types: it reads at most one file and asks a running gateway at most one question, with a
short timeout; it starts nothing, changes nothing, loads no heavy module and, whatever goes wrong, suggests nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from gateway.cli.locate import Place

ASK_S: Final = 0.5
"""How long the gateway may take to answer."""
MAX_FILE: Final = 1 << 20
MAX_HOSTS: Final = 200
KEY: Final = re.compile(r"( +)(?:\"([^\"]+)\"|'([^']+)'|([\w.@/-]+))\s*:(?:\s|$)")
PLAIN: Final = re.compile(r"[A-Za-z0-9_\[*][A-Za-z0-9._:/@*\[\]-]*")
"""What may be suggested: shells evaluate parts of a suggestion (typer's script for zsh at once, any shell at Enter), and
servers, tools and hosts are named by others."""
REFERENCE: Final = re.compile(r"\$\{secret:([A-Za-z0-9_.-]+)\}")
ORDINARY_PORTS: Final = (80, 443)

Source = Callable[[typer.Context], Iterable[str]]
Completer = Callable[[typer.Context, str], list[str]]


def quiet(source: Source) -> Completer:
    """What the source has that begins with what is typed; nothing when it fails, since a person is typing."""

    @functools.wraps(source)
    def complete(context: typer.Context, incomplete: str) -> list[str]:
        try:
            found = dict.fromkeys(source(context))
            return [name for name in found if name.startswith(incomplete) and PLAIN.fullmatch(name)]
        except Exception:
            return []

    complete.__annotations__ = {"context": typer.Context, "incomplete": str}  # by which typer passes the arguments
    del complete.__dict__["__wrapped__"]
    return complete


@quiet
def servers(context: typer.Context) -> Iterable[str]:
    """The servers of the configuration file."""
    return keys_below(_text(context), "mcpServers")


@quiet
def clients(context: typer.Context) -> Iterable[str]:
    """The clients of the configuration file."""
    return keys_below(_text(context), "clients")


@quiet
def catalog(context: typer.Context) -> Iterable[str]:
    """The servers of the catalog: each is a file."""
    from importlib.util import find_spec

    spec = find_spec("registry")
    assert spec is not None
    assert spec.origin is not None
    return sorted(file.stem for file in (Path(spec.origin).parent / "data").glob("*.yaml"))


@quiet
def known_clients(context: typer.Context) -> Iterable[str]:
    """The AI clients that Stockade can configure, except those that are named already."""
    from gateway.connect.clients import ROWS

    named = context.params.get("names") or ()
    return [row.name for row in ROWS if row.name not in named]


@quiet
def secrets(context: typer.Context) -> Iterable[str]:
    """The secrets that the file refers to."""
    return REFERENCE.findall(_text(context))


@quiet
def blocked_hosts(context: typer.Context) -> Iterable[str]:
    """HOST or HOST:PORT of what the server was refused and is still denied; needs a running gateway."""
    from gateway.cli.client import url

    wanted = {"backend": context.params.get("name") or None, "limit": MAX_HOSTS}
    for row in _ask(context, url("egress", "blocked", lookups=True, **wanted))["blocked"]:
        if not row["host"] or row["allowed_now"]:
            continue
        port = row["port"] if row["via"] != "dns" else 0
        name = f"[{row['host']}]" if ":" in row["host"] else str(row["host"])
        yield name if port in (0, *ORDINARY_PORTS) else f"{name}:{port}"


@quiet
def changed_tools(context: typer.Context) -> Iterable[str]:
    """The server's tools whose definitions changed; needs a running gateway."""
    from gateway.cli.client import url

    changed = _ask(context, url("backends", context.params["name"]))["changed_tools"]
    return [str(one["tool"]) for one in changed]


def keys_below(text: str, section: str) -> list[str]:
    """The keys of one mapping at the top of a YAML or JSON file, in order; the file need not be whole."""
    if text.lstrip().startswith("{"):
        return list(json.loads(text)[section])
    lines = iter(text.splitlines())
    head = re.compile(rf"(?:{section}|\"{section}\"|'{section}')\s*:\s*(.*)")
    rest = next((found[1] for line in lines if (found := head.match(line))), None)
    if rest is None:
        return []
    if rest and not rest.startswith("#"):  # `mcpServers: {…}` on one line: rare, so the slow way is good enough
        from ruamel.yaml import YAML

        return list(YAML(typ="safe").load(text)[section])
    keys: list[str] = []
    indent = ""
    for line in lines:
        if line and not line[0].isspace() and not line.startswith("#"):
            break
        if (key := KEY.match(line)) and key[1] == (indent or key[1]):
            indent = key[1]
            keys.append(key[2] or key[3] or key[4])
    return keys


def _place(context: typer.Context) -> Place:
    from gateway.cli.locate import Place

    outer, own = context.find_root().params, context.params
    file = own.get("file") or outer.get("file")
    return Place(file=Path(file) if file else None, project=own.get("project") or outer.get("project"))


def _text(context: typer.Context) -> str:
    with _place(context).config().open(encoding="utf-8-sig") as file:
        return file.read(MAX_FILE)


def _ask(context: typer.Context, target: str) -> Any:
    return _place(context).api().call("GET", target, timeout_s=ASK_S)
